"""How much memory this process can still take, and giving freed memory back to the system."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can still be taken without swapping; None where it is unknown.

    It is the smaller of what the machine has available and what the memory limit of the process's
    cgroup (a container, a cluster job) leaves. Only version 2 of cgroups is read: the default since
    Debian 11, Ubuntu 21.10 and RHEL 9; systemd 258 has dropped version 1.

    Args:
        root: folder that holds /proc and /sys.
    """
    amounts = list(_left_in_cgroups(root))
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            amounts.append(int(value.split()[0]) * 1024)
    return max(0, min(amounts)) if amounts else None


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """Yield the bytes left in this process's cgroup, and in each one above it that has a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    top = root / "sys/fs/cgroup"
    for line in lines:
        if not line.startswith("0::"):  # a hierarchy of version 1
            continue
        group = top / line[3:].lstrip("/")
        # In a container the path may be the host's, and not exist here: then only `top` counts.
        while group.is_relative_to(top):
            left = _left_in(group)
            if left is not None:
                yield left
            group = group.parent


def _left_in(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())
        usage = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    return limit - usage + int(stat.get("inactive_file", 0))  # cached file pages can be dropped


def give_back_freed_memory() -> None:
    """Return freed memory to the system (glibc's malloc_trim); elsewhere than on glibc, nothing."""
    if sys.platform.startswith("linux"):
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)
