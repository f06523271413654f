"""Timing several tasks in turn, so that all are affected alike by other work on the machine."""

import time
from collections.abc import Callable


def measure(
    tasks: dict[str, Callable],
    repeats: int,
    *,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time the tasks in turn.

    Args:
        tasks: by name.
        repeats: rounds, after one that warms up.
        calls: of a task in its turn, one after the other.
        clock: gives seconds.

    Returns:
        For each task the seconds of a call, one value a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = clock()
            for _ in range(calls):
                task()
            if repeat:
                seconds[name].append((clock() - start) / calls)
    return seconds
