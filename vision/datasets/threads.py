"""Decoding images in threads: OpenCV releases the GIL meanwhile, so all cores work."""

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
    """Like `map`, in as many threads as torch uses in this process (in a loader's worker: one).

    For training on a CPU without workers: the batch is decoded between two steps, when all cores
    are free. A worker process would decode during the step, on a core that one of torch's threads
    needs, and all other threads would wait for that one.

    The calling thread iterates over `items`: with several threads, while they work on the earlier
    items; with one, before the first call of `function`.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return map(function, list(items))
    return _pool(os.getpid(), num_threads).map(function, items)


@functools.cache
def _pool(pid: int, num_threads: int) -> ThreadPoolExecutor:
    """Make the threads of process `pid`; after a fork, the parent's threads do not exist here."""
    cv2.setNumThreads(0)  # OpenCV itself needs no further threads
    places = count()
    return ThreadPoolExecutor(
        num_threads,
        thread_name_prefix="decode",
        initializer=lambda: _stay_on_core(next(places), num_threads),
    )


def _stay_on_core(place: int, num_threads: int) -> None:
    """Bind this thread to one core, if there are as many threads as cores.

    Without it, threads that wake up together start on the same core and share it for milliseconds:
    after a pause, a batch of 16 takes 30 ms instead of 20.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == num_threads:
        with suppress(OSError):  # some containers forbid it
            os.sched_setaffinity(0, {cores[place]})
