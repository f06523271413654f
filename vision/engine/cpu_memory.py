"""How the C library handles the memory of training and inference on a CPU."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Keep what is freed for the next step, instead of giving it back to the system.

    A step frees and allocates the same gigabytes of activations. glibc gives each block over 32 MB
    back to the kernel, which clears and maps it anew, 4 KB at a time, when the next layer writes
    there: a quarter of the time of a batch's inference in float32. torch's huge pages
    (THP_MEM_ALLOC_ENABLE=1) would save another 2 to 6 % of a step, for up to 1.5 GB more.

    Returns:
        Whether the C library took it; another than glibc is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Threads come and go, as the one that writes a checkpoint does. In an arena of its own each
    # would keep as much as it once used, and malloc_trim() returns nothing from there.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 2))
    return all(mallopt(name, value) for name, value in settings)


def give_back_freed_memory() -> None:
    """Give what is free back to the system, before work that needs other sizes than the last."""
    if sys.platform.startswith("linux"):
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)
