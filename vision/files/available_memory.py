"""How much more memory this process may take: what the machine has, and what its cgroup allows."""

from collections.abc import Iterator
from pathlib import Path

_V1_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2_NAMES = ("memory.max", "memory.current", "inactive_file")


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken without swapping; None where it is unknown (no Linux).

    Args:
        root: folder that holds /proc and /sys.
    """
    rooms = list(_cgroup_rooms(root))
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            rooms.append(int(value.split()[0]) * 1024)
    return max(0, min(rooms)) if rooms else None


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """What the memory limits of this process's cgroup and of those above it leave, in bytes."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.lstrip("/")
        # Inside a container the path may be the host's; its own group is then the top.
        while group.is_relative_to(top):
            room = _room(group, _V1_NAMES if controllers else _V2_NAMES)
            if room is not None:
                yield room
            group = group.parent


def _room(group: Path, names: tuple[str, str, str]) -> int | None:
    limit_name, usage_name, cache_name = names
    try:
        limit = int((group / limit_name).read_text())
        usage = int((group / usage_name).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    return limit - usage + int(stat.get(cache_name, 0))  # file pages that can be dropped
