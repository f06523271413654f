"""Atomic writes: the old file or the new one; leftovers are told from what is others'."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vision.files.atomic_file import remove_abandoned, temporary_path, write_atomically
from vision.runs.checkpoint import LAST, epoch_path, link_or_copy
from vision.runs.run_folder import remove_leftovers

fcntl = pytest.importorskip("fcntl", reason="leftovers stay on Windows")
ROOT = Path(__file__).resolve().parent.parent
WRITER = """
import sys, time
from vision.files.atomic_file import write_atomically

def chunks():
    yield b"first half"
    print("writing", flush=True)
    time.sleep(100)

write_atomically(sys.argv[1], chunks())
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of writing a checkpoint."""
    command = [sys.executable, "-c", WRITER, epoch_path(tmp_path, 2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def test_a_live_writers_file_stays_and_a_dead_ones_goes(tmp_path, writer):
    (temporary,) = names(tmp_path)
    assert temporary.startswith(".checkpoint_epoch_0002.pt.") and temporary.endswith(".tmp")
    remove_leftovers(tmp_path)
    write_atomically(epoch_path(tmp_path, 2), b"other")
    assert names(tmp_path) == [temporary, "checkpoint_epoch_0002.pt"]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint_epoch_0002.pt"]


def test_a_resume_leaves_what_is_of_others(tmp_path):
    others = [
        ".notes.tmp", ".checkpoint_epoch_0001.pt.tmp", ".checkpoint_epoch_0001.pt.mine.tmp",
        ".thesis.tex.0a1b2c3d.tmp", "checkpoint_epoch_0001.pt.0a1b2c3d.tmp",
    ]  # fmt: skip
    leftovers = [".checkpoint_epoch_0001.pt.0a1b2c3d.tmp", ".checkpoint_last.pt.0a1b2c3d.tmp"]
    for name in [*others, *leftovers]:
        (tmp_path / name).write_text("content")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_links_and_pipes_under_our_names_are_left(tmp_path):
    precious, folder = tmp_path / "precious", tmp_path / "run"
    precious.write_text("thesis")
    folder.mkdir()
    (folder / ".checkpoint_last.pt.00000000.tmp").symlink_to(precious)
    os.mkfifo(folder / ".checkpoint_last.pt.00000001.tmp")
    cleaning = threading.Thread(target=remove_leftovers, args=(folder,), daemon=True)
    cleaning.start()
    cleaning.join(20)
    assert not cleaning.is_alive(), "it waits for the pipe"
    assert precious.read_text() == "thesis" and len(names(folder)) == 2


def test_a_link_in_the_making_stays(tmp_path):
    target = epoch_path(tmp_path, 1)
    target.write_bytes(b"checkpoint")
    made = []

    def replace(source, name):
        remove_leftovers(tmp_path)  # as another process may at this moment
        made.append(names(tmp_path))
        os.rename(source, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        link_or_copy(target, tmp_path / LAST)
    assert len(made[0]) == 2 and names(tmp_path) == ["checkpoint_epoch_0001.pt", LAST]
    assert os.path.samefile(target, tmp_path / LAST)


def test_only_names_that_are_asked_for_are_removed(tmp_path):
    write_atomically(tmp_path / "a[1].json", b"old")
    for name in ("a[1].json", "a1.json"):
        temporary_path(tmp_path / name).write_bytes(b"")
    write_atomically(tmp_path / "a[1].json", b"new")
    assert len(names(tmp_path)) == 2 and (tmp_path / "a[1].json").read_bytes() == b"new"
    remove_abandoned(tmp_path, lambda name: name == "a1.json")
    assert names(tmp_path) == ["a[1].json"]


def test_many_processes_write_one_file(tmp_path):
    """Each removes what others have left, at the moment between opening and locking too."""
    program = (
        "import sys; from vision.files.atomic_file import write_atomically\n"
        "for number in range(300): write_atomically(sys.argv[1], sys.argv[2].encode() * 1000)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "a", letter], env=environment)
        for letter in "xyz"
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    content = (tmp_path / "a").read_text()
    assert names(tmp_path) == ["a"] and len(content) == 1000 and len(set(content)) == 1
