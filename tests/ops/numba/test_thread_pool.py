"""Test the thread pool of compiled kernels: each chunk runs once, whatever threads, forks and exits do."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("numba")

import numba
from numba import types

from jet.ops.numba import simd
from jet.ops.numba.thread_pool import Pool
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(300)  # what is not compiled yet takes seconds

CHILD = """
import faulthandler, gc, os, random, sys, threading, time
faulthandler.enable()
import numba, numpy as np
from numba import types
from jet.ops.numba import simd, thread_pool

@numba.cfunc(types.void(types.int64, types.int64))
def count(counters, chunk):
    simd.add_shared(counters + 8 * chunk, 1)

def check(pool, draw):
    chunks, threads = draw.choice([1, 2, 3, 7, 40]), draw.choice([1, 2, 3, 9])
    counters = np.zeros(chunks, np.int64)
    pool.run(count.address, counters.ctypes.data, chunks, threads)
    assert counters.tolist() == [1] * chunks, counters

def soak(seconds, seed):
    draw, pool, until = random.Random(seed), thread_pool.Pool(), time.monotonic() + seconds
    while time.monotonic() < until:
        check(shared, draw)
        check(pool, draw)
        if draw.random() < 0.01:
            pool = thread_pool.Pool()
            gc.collect()
        if draw.random() < 0.001:
            time.sleep(draw.choice([0.001, 0.05, 0.3]))
        if seed == 0 and draw.random() < 0.002:
            child = os.fork()
            if child == 0:
                for _ in range(20):
                    check(shared, draw)
                    check(pool, draw)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0

shared = thread_pool.Pool()
soakers = [threading.Thread(target=soak, args=(float(sys.argv[1]), seed)) for seed in range(3)]
for soaker in soakers:
    soaker.start()
for soaker in soakers:
    soaker.join()
check(shared, random.Random(0))  # so that workers spin while Python ends
print("done")
"""


@pytest.fixture(scope="module")
def count_chunk() -> int:
    @numba.cfunc(types.void(types.int64, types.int64))
    def count(counters, chunk):
        simd.add_shared(counters + 8 * chunk, 1)

    kept.append(count)
    address: int = count.address
    return address


kept: list[object] = []


def run(pool: Pool, address: int, chunks: int, threads: int) -> None:
    counters = np.zeros(chunks + 1, np.int64)
    pool.run(address, counters.ctypes.data, chunks, threads)
    assert counters.tolist() == [1] * chunks + [0]


def test_every_chunk_is_run_once(count_chunk: int) -> None:
    pool, sizes = Pool(), random.Random(0)
    for _ in range(300):
        run(pool, count_chunk, sizes.choice([1, 2, 3, 7, 40]), sizes.choice([1, 2, 3]))


def test_callers_do_not_disturb_each_other(count_chunk: int) -> None:
    pool, wrong = Pool(), []

    def call() -> None:
        try:
            for _ in range(200):
                run(pool, count_chunk, 16, 3)
        except AssertionError as error:
            wrong.append(error)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_closed_pool_runs_jobs_without_its_workers(count_chunk: int) -> None:
    pool = Pool()
    run(pool, count_chunk, 40, 3)
    workers = list(pool._workers)
    assert len(workers) == 2
    pool.close()
    assert not any(worker.is_alive() for worker in workers)
    run(pool, count_chunk, 40, 3)
    assert pool._workers == workers


def test_workers_end_with_their_pool(count_chunk: int) -> None:
    pool = Pool()
    run(pool, count_chunk, 40, 2)
    (worker,) = pool._workers
    del pool
    gc.collect()
    worker.join(10)
    assert not worker.is_alive()


def test_without_more_threads_the_caller_works_alone(
    count_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = Pool()
    run(pool, count_chunk, 40, 3)
    assert pool._workers == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("seconds", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_threads_forks_and_the_end_of_python_leave_it_whole(seconds: int) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD, str(seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=ROOT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_sleeping_workers_wake_for_the_next_job(count_chunk: int) -> None:
    pool = Pool()
    for _ in range(2):
        run(pool, count_chunk, 40, 2)
        awake, until = pool._offset + 64, time.monotonic() + 60
        while pool._words[awake]:
            assert time.monotonic() < until, "the worker does not fall asleep"
            time.sleep(0.01)
