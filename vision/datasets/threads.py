"""Work of one process on all its cores: decoding lets go of Python's lock."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import TypeVar

import cv2
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Like `map`, on as many threads as torch has in this process: one in a loader's worker.

    Between the steps of training on a CPU its cores are free. A process that decoded during a step
    would take a core from it, and torch's other threads would wait for the one that shares.

    Items are drawn from `items` by this thread; with several threads, while they do the earlier
    ones, otherwise all of them first.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return map(function, list(items))
    return _pool(os.getpid(), num_threads).map(function, items)


@functools.cache
def _pool(pid: int, num_threads: int) -> ThreadPoolExecutor:
    """The threads of this process; those of the parent do not live on after a fork."""
    cv2.setNumThreads(0)  # each of them is one
    places = count()
    return ThreadPoolExecutor(
        num_threads,
        thread_name_prefix="decode",
        initializer=lambda: _stay_on_core(next(places), num_threads),
    )


def _stay_on_core(place: int, num_threads: int) -> None:
    """Keep this thread on one core, if each of the threads can have its own.

    Threads that wake up together start on the same core, and share it for milliseconds: after a
    pause a batch of 16 takes 30 ms, and 20 where each has a core.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == num_threads:
        with suppress(OSError):  # some sandboxes forbid it
            os.sched_setaffinity(0, {cores[place]})
