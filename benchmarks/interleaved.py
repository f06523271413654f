"""Timing several tasks in turn."""

import time
from collections.abc import Callable


def measure(tasks: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Time the tasks in turn, so that what else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds
