"""The bar of what reads a data set: on a terminal of the first process, and nowhere else."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios

import pytest

PROGRAM = """
import time
from vision.datasets.progress import show_progress
print(sum(x for x in show_progress(map(lambda x: time.sleep(0.2) or x, range(3)), 3)))
"""


@pytest.mark.parametrize(("rank", "is_shown"), [("0", True), ("1", False)])
def test_a_terminal_shows_it_in_the_first_process(rank, is_shown):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs,
        env={**os.environ, "RANK": rank}, timeout=60, check=True,
    )  # fmt: skip
    has_words = select.select([ours], [], [], 0)[0]
    shown = os.read(ours, 10_000) if has_words else b""
    os.close(ours)
    os.close(theirs)
    assert done.stdout == b"3\n"
    assert (b"read:" in shown) == is_shown


def test_without_a_terminal_it_is_silent():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (b"3\n", b"")
