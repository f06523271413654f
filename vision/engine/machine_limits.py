"""torch's out-of-memory errors and lost processes, explained in one line."""

import re

import torch

from vision.engine import distributed

_WORKER_DIED = re.compile(r"DataLoader worker \(pid|unable to write to file </torch|shared memory")


def explain(error: RuntimeError) -> str | None:
    """Say in one line what happened; None for another error, which keeps its traceback."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full; use a smaller --batch-size or --image-size"
    if "DefaultCPUAllocator" in text:
        return "the memory is full; use a smaller --batch-size or --image-size, or fewer --workers"
    if _WORKER_DIED.search(text):
        return (
            "a process that loads data died, perhaps because the memory or /dev/shm is full; "
            "use fewer --workers, or 0"
        )
    return distributed.explain_lost(error)
