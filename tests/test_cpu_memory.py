"""Freed memory stays with the process that trains."""

import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys
from vision.engine.cpu_memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    raise SystemExit("not glibc")
import torch
def touch():
    torch.zeros(64 << 20, dtype=torch.uint8).fill_(1)
for _ in range(20):  # until there is a hole large enough for the block and its alignment
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def number_from(script: str, *arguments: str) -> int:
    """What the script prints in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "not glibc" in result.stderr:
        pytest.skip("no glibc")
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_a_freed_block_is_used_again_without_new_pages():
    assert number_from(PAGE_FAULTS, "keep") < 500  # of the 4 KB pages of four blocks, 65,536
    assert number_from(PAGE_FAULTS, "leave it") > 500


GIVE_BACK = """
import torch
from vision.engine.cpu_memory import keep_freed_memory
from vision.files.available_memory import give_back_freed_memory
if not keep_freed_memory():
    raise SystemExit("not glibc")
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
block = torch.zeros(256 << 20, dtype=torch.uint8).fill_(1)
marker = torch.ones(1000)
del block
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


def test_kept_memory_is_given_back_when_told():
    assert number_from(GIVE_BACK) > 200 << 20


THREADS = """
import threading
import numpy as np
from vision.engine.cpu_memory import keep_freed_memory
from vision.files.available_memory import give_back_freed_memory
if not keep_freed_memory():
    raise SystemExit("not glibc")
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def write_checkpoint():
    np.ones(45 << 20, np.uint8)
end = threading.Event()
def stay():
    small.append(np.ones(100))
    end.wait()
small, seen = [], []
for _ in range(6):
    for target in (write_checkpoint, stay):
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        thread.join(None if target is write_checkpoint else 0.1)
    give_back_freed_memory()
    seen.append(resident())
print(seen[-1] - seen[0])
"""


def test_threads_that_come_and_go_keep_nothing_each():
    assert number_from(THREADS) < 50 << 20  # one such block more, not five
