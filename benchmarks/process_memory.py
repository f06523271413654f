"""Memory of a process and its child processes, from /proc (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

MB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Attributes:
        pss: resident memory, a page shared by N processes counted as 1/N; adds up over processes.
        uss: resident memory that no other process shares.
    """

    pss: int
    uss: int


def tree_memory(root: int | None = None) -> dict[int, Memory]:
    """Return memory by process id: of `root` (None: this process) and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", pid, "stat").read_text()
        except OSError:  # it has ended
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(pid))
    found: dict[int, Memory] = {}
    pending = [os.getpid() if root is None else root]
    while pending:
        pid = pending.pop()
        memory = _memory(pid)
        if memory:
            found[pid] = memory
        pending += children.get(pid, [])
    return found


def total_pss(memories: dict[int, Memory]) -> float:
    """Return the MB of all processes together."""
    return sum(memory.pss for memory in memories.values()) / MB


def peak_rss(pid: int) -> float:
    """Return the peak resident memory of a running process in MB; 0 when it has ended."""
    return _fields(f"/proc/{pid}/status").get("VmHWM", 0) / MB


def _memory(pid: int) -> Memory | None:
    fields = _fields(f"/proc/{pid}/smaps_rollup")
    if "Pss" not in fields:
        return None
    return Memory(fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"])


def _fields(path: str) -> dict[str, int]:
    """Read the lines `Name: 123 kB` as bytes; none if the process has ended."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {w[0].rstrip(":"): 1024 * int(w[1]) for w in words if len(w) == 3 and w[2] == "kB"}
