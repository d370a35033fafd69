# mypy: allow-untyped-decorators
"""A thread pool for compiled kernels that does without its workers while other programs use the cores.

Caller and workers share a piece of memory, the board. The caller publishes a job of several chunks there and
takes chunks itself; workers that are awake take the others. So the caller never waits for a sleeping worker.
It has to wait for a worker that loses its core in the middle of a chunk; after that, it does without workers
for a moment.

After a job, workers spin for a short while, since the next job of the same decode step follows within
microseconds. Then they doze between looks at the board, without Python's lock, so that the caller never waits
for that lock. Finally they sleep. Workers end before the interpreter does, and a forked child starts its own.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import Any

import numba
import numpy as np

from jet.ops.numba.kernels import kernel
from jet.ops.numba.simd import add_shared, call_at, doze, load_shared, pause, store_shared

# Words of the board, each on cache lines of its own. The ticket holds the number of chunks in its high half
# and the next chunk to be taken in its low half, so one atomic addition takes a chunk.
_TICKET, _DONE, _FUNCTION, _ARGUMENT, _CLOSED, _AWAKE = 0, 16, 32, 33, 48, 64
_WORD = 8  # bytes
_NEXT = 0xFFFFFFFF
_SPINS = 2_000  # pauses before a worker dozes: some 50 µs
_DOZE, _DOZES = 50, 2_000  # microseconds, and how many times before it sleeps: some 200 ms
# Pauses of the caller for one job, some 50 µs, after which a worker that holds a chunk must have lost its
# core: from then on the caller offers its own now and again.
_PATIENCE = 2_000
_SHORTEST, _LONGEST = 0.01, 0.1  # seconds without workers after a stall
_MOST = 64  # threads for which the board has room
_CLOSING_S = 2.0  # for workers to end

_inner: Any = numba.njit
_compiled: Any = kernel


@_inner
def _take(board: int) -> int:
    """Take the next chunk of the job on the board at an address; return its number, or -1 if none is left."""
    place = board + _TICKET * _WORD
    ticket = load_shared(place)
    if (ticket & _NEXT) >= (ticket >> 32):
        return -1
    ticket = add_shared(place, 1)
    return ticket & _NEXT if (ticket & _NEXT) < (ticket >> 32) else -1


@_inner
def _work(board: int, chunk: int) -> None:
    # A thread that holds a chunk keeps the job on the board until it adds to the count of those that are
    # done.
    call_at(load_shared(board + _FUNCTION * _WORD), load_shared(board + _ARGUMENT * _WORD), chunk)
    add_shared(board + _DONE * _WORD, 1)


@_compiled
def _serve(board: int, awake: int) -> None:
    """Run chunks of a board's jobs until there have been none for a while, or the pool is closed.

    `awake`: the address of the worker's flag, which is cleared at the end.
    """
    idle = 0
    while idle < _SPINS + _DOZES and load_shared(board + _CLOSED * _WORD) == 0:
        chunk = _take(board)
        if chunk >= 0:
            _work(board, chunk)
            idle = 0
        else:
            idle += 1
            if idle < _SPINS:
                pause(0)
            else:
                doze(_DOZE)
    store_shared(awake, 0)


@_compiled
def _run(board: int, function: int, argument: int, chunks: int) -> int:
    """Run all chunks of a job with the workers that are awake, and wait for their last chunks.

    `function`, `argument`: as in `Pool`. Returns how often the wait checked for the end, a measure of its
    length.
    """
    store_shared(board + _FUNCTION * _WORD, function)
    store_shared(board + _ARGUMENT * _WORD, argument)
    store_shared(board + _DONE * _WORD, 0)
    store_shared(board + _TICKET * _WORD, chunks << 32)
    while True:
        chunk = _take(board)
        if chunk < 0:
            break
        _work(board, chunk)
    waited = 0
    while load_shared(board + _DONE * _WORD) < chunks:
        waited += 1
        pause(1 if waited % _PATIENCE == 0 else 0)
    return waited


@_compiled
def _run_alone(function: int, argument: int, chunks: int) -> None:
    for chunk in range(chunks):
        call_at(function, argument, chunk)


class Pool:
    """Runs jobs on the calling thread and on workers, which are started when they are first needed.

    A job calls the compiled function at an address with `(argument, chunk)`, once for each chunk, on any
    thread.
    """

    def __init__(self) -> None:
        self._restart()
        _POOLS.add(self)

    def run(self, function: int, argument: int, chunks: int, threads: int) -> None:
        """Run a job with up to `threads` threads.

        The calling thread runs it alone while the pool runs another caller's job or does without workers.

        Args:
            function: the address of the compiled function.
            argument: the function's first argument.
            chunks: the number of chunks.
            threads: the most threads, the calling one included.
        """
        alone = threads == 1 or chunks == 1 or self._closed or time.monotonic() < self._alone_until
        if alone or not self._busy.acquire(blocking=False):
            _run_alone(function, argument, chunks)
            return
        try:
            self._wake(min(threads, _MOST) - 1)
            self._note(_run(self._board, function, argument, chunks))
        finally:
            self._busy.release()

    def __del__(self) -> None:
        self._dismiss()

    def close(self) -> None:
        """End the workers, waiting up to two seconds; later jobs run on the calling thread alone."""
        self._closed = True
        self._dismiss()
        until = time.monotonic() + _CLOSING_S
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))

    def _dismiss(self) -> None:
        self._words[self._offset + _CLOSED] = 1
        for waker in self._wakers:
            waker.release()

    def _restart(self) -> None:
        """Set up the pool without workers.

        A forked child calls this too, since it has no threads of its parent.
        """
        self._words = np.zeros(1024, np.int64)
        self._offset = -self._words.ctypes.data % 64 // _WORD
        self._board = self._words.ctypes.data + self._offset * _WORD
        self._wakers: list[threading.Semaphore] = []
        self._workers: list[threading.Thread] = []
        self._busy = threading.Lock()
        self._closed = False
        self._alone_s, self._alone_until = _SHORTEST, 0.0

    def _note(self, waited: int) -> None:
        """Do without workers for a while if the caller waited so long that a worker must have lost its core.

        `waited`: the number that `_run` returned.
        """
        if waited >= _PATIENCE:
            self._alone_until = time.monotonic() + self._alone_s
            self._alone_s = min(2 * self._alone_s, _LONGEST)
        else:
            self._alone_s = max(0.99 * self._alone_s, _SHORTEST)

    def _wake(self, count: int) -> None:
        for number in range(count):
            if number == len(self._wakers) and not self._start(number):
                return
            place = self._offset + _AWAKE + 8 * number
            if not self._words[place]:
                self._words[place] = 1
                self._wakers[number].release()

    def _start(self, number: int) -> bool:
        """Start one more worker; False if the system allows no more threads."""
        waker = threading.Semaphore(0)
        awake = self._board + (_AWAKE + 8 * number) * _WORD
        arguments = (waker, self._board, awake, self._words)
        worker = threading.Thread(target=_worker, args=arguments, daemon=True, name=f"kernels-{number}")
        try:
            worker.start()
        except RuntimeError:
            return False
        self._wakers.append(waker)
        self._workers.append(worker)
        return True


def _worker(waker: threading.Semaphore, board: int, awake: int, words: Any) -> None:
    """Serve a board each time that `waker` is released, until its pool is closed.

    `words`: the memory that contains the board.
    """
    closed = -words.ctypes.data % 64 // _WORD + _CLOSED
    while not words[closed]:
        waker.acquire()
        _serve(board, awake)


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread in compiled code would be ended by force when it asks for Python's lock.
    for pool in list(_POOLS):
        pool.close()


def _restart_all() -> None:
    for pool in list(_POOLS):
        pool._restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)
