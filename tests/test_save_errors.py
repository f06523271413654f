"""A full or read-only disk, a file that cannot be written, a second writer: nothing is lost."""

import signal
import socket
import subprocess

import pytest
from resume_runs import RECIPE, differences, read_metrics
from trainer_host import At

from vision.runs.checkpoint import epoch_path, read_checkpoint

pytest_plugins = ["resume_fixtures"]
TRAIN_STEP = "vision.engine.train.train_step"
# Its third call is in the second validation.
POSTPROCESS = "vision.evaluation.inference.select_detections"


def mount(*arguments) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 28 MB: one checkpoint of 18 MB fits, and half of another."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=28m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_keeps_what_is_there(
    trainer, tiny_data, reference, small_disk
):
    run = small_disk / "run"
    stopped = trainer.run("--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run)
    assert stopped.returncode == 1
    (error,) = [line for line in stopped.stderr.splitlines() if line.startswith("error: ")]
    assert "checkpoint_epoch_0002.pt: could not be written (No space left on device)" in error
    assert "it needs 18." in error and "MB are free" in error and "--resume" in error
    assert "the 1 checkpoints to come need 18 MB" in stopped.stderr  # said an epoch earlier
    assert read_checkpoint(epoch_path(run, 1))["epoch"] == 1
    assert not epoch_path(run, 2).exists() and not list(run.glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert trainer.run("--resume", run).returncode == 0
    assert differences(run, reference) == []


def test_a_full_disk_does_not_stop_a_run_that_is_to_continue(
    trainer, tiny_data, reference, small_disk
):
    run = small_disk / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    # One step checkpoint fits; that of the epoch does not until the other is gone, which is never.
    ended = trainer.run(*start, "--checkpoint-every-steps=2", "--on-save-error=continue")
    assert ended.returncode == 1  # the last epoch's weights are not on disk
    assert "training goes on without it" in ended.stderr
    assert "the newest checkpoint on disk is checkpoint_epoch_0001_step_00000002.pt" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(read_metrics(run)) == 2
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert trainer.run("--resume", run).returncode == 0
    assert differences(run, reference) == []


def test_a_write_that_fails_is_reported_at_the_next_step(trainer, tiny_data, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--epochs=9", "--checkpoint-folder", run]
    stopped = trainer.run(*start, plan=At(POSTPROCESS, 3, what="fsize"))
    assert stopped.returncode == 1
    assert "checkpoint_epoch_0002.pt: could not be written (File too large)" in stopped.stderr
    assert len(read_metrics(run)) <= 3  # and not at the end of nine epochs
    assert read_checkpoint(epoch_path(run, 1))["epoch"] == 1


def test_a_signal_on_a_full_disk_says_that_nothing_was_saved(trainer, tiny_data, small_disk):
    run = small_disk / "run"
    plan = [At(POSTPROCESS, 3, what="fsize"), At(POSTPROCESS, 3, what="SIGTERM", after=True)]
    stopped = trainer.run("--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run, plan=plan)
    assert stopped.returncode == 1
    assert "step_00000006.pt: could not be written (File too large)" in stopped.stderr


def test_a_read_only_folder_is_one_line(trainer, tiny_data, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", folder)
    try:
        ended = trainer.run("--datasets", tiny_data, *RECIPE, "--checkpoint-folder", folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert ended.returncode == 1
    assert "Read-only file system" in ended.stderr and str(folder) in ended.stderr
    assert ended.stderr.count("error: ") == 1 and "Traceback" not in ended.stderr


def test_a_second_writer_is_refused_until_the_first_is_dead(
    trainer, tiny_data, reference, tmp_path
):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    first = trainer.start(*start, plan=At(TRAIN_STEP, 4, what="SIGSTOP"))
    trainer.wait(first, until_stopped=True)
    for argv in (start, ["--resume", run]):
        second = trainer.run(*argv)
        assert second.returncode == 1
        assert f"pid {first} on {socket.gethostname()} trains in this folder" in second.stderr
    trainer.kill(first)
    assert trainer.wait(first).returncode == -signal.SIGKILL
    assert trainer.run("--resume", run).returncode == 0
    assert differences(run, reference) == []


def test_two_starts_in_one_folder(trainer, tiny_data, reference, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    ended = trainer.run("--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run)
    assert ended.returncode == 1 and "there is a run already; --resume" in ended.stderr
    assert (run / "config.json").read_text() == "{}"
