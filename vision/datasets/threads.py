"""Work of one process on all its cores: decoding lets go of Python's lock."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Like `map`, on as many threads as torch has in this process: one in a loader's worker.

    Between the steps of training on a CPU its cores are free. A process that decoded during a step
    would take a core from it, and torch's other threads would wait for the one that shares.
    """
    count = torch.get_num_threads()
    if count == 1 or len(items) == 1:
        return map(function, items)
    return _pool(os.getpid(), count).map(function, items)


@functools.cache
def _pool(pid: int, count: int) -> ThreadPoolExecutor:
    """The threads of this process; those of the parent do not live on after a fork."""
    cv2.setNumThreads(0)  # each of them is one
    return ThreadPoolExecutor(count, thread_name_prefix="decode")
