"""A stand-in for ZeroGPU's package `spaces`: each call runs in a forked process, with pickled values."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

assert "torch" not in sys.modules, "spaces has to be imported first"

_FORK = multiprocessing.get_context("fork")


def GPU(task: object = None, *, duration: Callable[..., int] | None = None) -> Callable[..., Any]:
    assert task is None and duration is not None

    def wrap(write: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        assert isgeneratorfunction(write), "a plain generator"

        @wraps(write)
        def lend(*arguments: Any) -> Iterator[Any]:
            print(f"lent for {duration(*arguments)} s", flush=True)
            ours, theirs = _FORK.Pipe()
            stop = _FORK.Event()
            worker = _FORK.Process(target=_work, args=(write, pickle.dumps(arguments), theirs, stop))
            worker.start()
            theirs.close()
            try:
                while (sent := pickle.loads(ours.recv())) is not None:
                    if isinstance(sent, str):
                        raise RuntimeError(sent)
                    yield sent
            except GeneratorExit:
                stop.set()
                raise
            finally:
                worker.join(20)
                print(f"given back by {worker.pid} with {worker.exitcode}", flush=True)

        return lend

    return wrap


def _work(write: Callable[..., Iterator[Any]], arguments: bytes, pipe: Any, stop: Any) -> None:
    try:
        for value in write(*pickle.loads(arguments)):
            pipe.send(pickle.dumps(value))
            if stop.is_set():
                break
        pipe.send(pickle.dumps(None))
    except BaseException as error:
        traceback.print_exc()
        pipe.send(pickle.dumps(type(error).__name__))
    os._exit(0)
