"""A run that was killed and resumed ends in the same bits as one that was never interrupted."""

import queue
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT
from resume_runs import NUM_TRAIN, RECIPE, STEPS_PER_EPOCH, differences
from trainer_host import At, TrainerHost

from vision.datasets.batch_sampler import EpochBatchSampler
from vision.runs.checkpoint import read_checkpoint

pytest_plugins = ["resume_fixtures"]
TRAIN_STEP = "vision.engine.train.train_step"
POSTPROCESS = "vision.evaluation.inference.select_detections"  # once a validation batch
LAST_STEP = 2 * STEPS_PER_EPOCH

# Where SIGKILL strikes, each time with other files on disk; the runs save every second step.
KILLS = {
    "in the first epoch, nothing saved": At(TRAIN_STEP, 2),
    "in the first epoch, saved inside": At(TRAIN_STEP, 3, after=True),
    "in the last epoch": At(TRAIN_STEP, LAST_STEP - 1),
    "in the last validation": At(POSTPROCESS, 4),
    "metrics written, not renamed": At("os.replace", 1, "metrics.jsonl"),
    "metrics renamed, no checkpoint": At("os.replace", 1, "metrics.jsonl", after=True),
    "half of a step checkpoint written": At("os.replace", 1, "_step_00000004.pt", "torn"),
    "epoch checkpoint written, not renamed": At("os.replace", 1, "checkpoint_epoch_0001.pt"),
    "epoch checkpoint renamed, folder not synced": At(
        "os.replace", 1, "checkpoint_epoch_0001.pt", after=True
    ),
    "last linked, not renamed": At("os.replace", 2, "checkpoint_last.pt"),
    "between last and best": At("os.link", 1, "checkpoint_best.pt"),
    "before needless ones are removed": At("vision.runs.saver.obsolete_checkpoints", 2),
    "last epoch's checkpoint renamed, not linked": At(
        "os.replace", 1, "checkpoint_epoch_0002.pt", after=True
    ),
}
EVERY_TWO = "--checkpoint-every-steps=2"


@pytest.fixture(scope="module")
def ends(trainer, tiny_data, reference, tmp_path_factory) -> dict[str, Future]:
    """How each of KILLS ended, two at a time."""
    other = TrainerHost(tmp_path_factory.mktemp("other_output"))
    hosts = queue.SimpleQueue()
    hosts.put(trainer)
    hosts.put(other)

    def kill_and_resume(name: str) -> list[str]:
        run = tmp_path_factory.mktemp("killed") / "run"
        start = ["--datasets", tiny_data, *RECIPE, EVERY_TWO, "--checkpoint-folder", run]
        host = hosts.get()
        try:
            killed, resumed = host.run(*start, plan=KILLS[name]), host.run("--resume", run)
        finally:
            hosts.put(host)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert resumed.returncode == 0, resumed.stderr
        found = differences(run, reference) + [path.name for path in run.glob(".*.tmp")]
        shutil.rmtree(run)
        return found

    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(kill_and_resume, name) for name in KILLS}
    other.close()
    return futures


@pytest.mark.parametrize("name", KILLS)
def test_killed_and_resumed_ends_in_the_same_bits(ends, name):
    assert ends[name].result() == []


def test_killed_before_it_is_a_run_can_be_started_again(trainer, tiny_data, reference, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    at = At("os.replace", 1, "config.json")
    assert trainer.run(*start, plan=at).returncode == -signal.SIGKILL
    assert "looked for config.json" in trainer.run("--resume", run).stderr
    assert trainer.run(*start).returncode == 0
    assert differences(run, reference) == []


def test_killed_again_and_again(trainer, tiny_data, reference, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    # A save waits for the one before it, so each life gets at least one step further.
    plan = At(TRAIN_STEP, 3)
    trainer.run(*start, "--checkpoint-every-steps=1", plan=plan)
    kills = 1
    while trainer.run("--resume", run, plan=plan).returncode != 0:
        kills += 1
        assert kills < LAST_STEP
    assert kills >= 2
    assert differences(run, reference) == []


@pytest.mark.parametrize("before, after", [(2, 0), (0, 1), (4, 2)])
def test_the_number_of_workers_changes_no_bit(
    trainer, tiny_data, reference, tmp_path, before, after
):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run, "--workers", before]
    stopped = trainer.run(*start, plan=At(TRAIN_STEP, 5, what="SIGTERM"))
    assert stopped.returncode == 128 + signal.SIGTERM
    resumed = trainer.run("--resume", run, "--workers", after)
    assert resumed.returncode == 0, resumed.stderr
    assert "at epoch 2, step 5" in resumed.stderr
    assert differences(run, reference) == []


def test_seen_samples_are_not_decoded_again(trainer, tiny_data, reference, tmp_path):
    moved, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_data, moved)
    start = ["--datasets", moved, *RECIPE, "--checkpoint-folder", run]
    stopped = trainer.run(*start, plan=At(TRAIN_STEP, LAST_STEP - 1, what="SIGTERM"))
    assert stopped.returncode == 128 + signal.SIGTERM
    # Of the last epoch, two of three batches are done: nobody needs their images any more.
    sampler = EpochBatchSampler(NUM_TRAIN, batch_size=2, seed=0, shuffle=True)
    sampler.epoch = 1
    seen = [index for batch in list(sampler)[:2] for _, index in batch]
    images = sorted((moved / "train2017").iterdir())
    for index in seen:
        images[index].write_bytes(b"not an image")
    assert trainer.run("--resume", run).returncode == 0
    assert differences(run, reference) == []
    assert len(seen) == 4


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("function", [TRAIN_STEP, POSTPROCESS], ids=["epoch", "validation"])
def test_a_signal_saves_and_exits_with_its_number(
    trainer, tiny_data, reference, tmp_path, name, function
):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    stopped = trainer.run(*start, plan=At(function, 1, what=name))
    assert stopped.returncode == 128 + getattr(signal, name)
    step = 1 if function == TRAIN_STEP else STEPS_PER_EPOCH
    saved = run / f"checkpoint_epoch_0001_step_{step:08d}.pt"
    assert read_checkpoint(saved)["step"] == step
    assert f"--resume {run}" in stopped.stdout and saved.name in stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert trainer.run("--resume", run).returncode == 0
    assert differences(run, reference) == []


def test_a_second_ctrl_c_stops_at_once(trainer, tiny_data, tmp_path):
    run = tmp_path / "run"
    twice = [At(TRAIN_STEP, 1, what="SIGINT"), At(TRAIN_STEP, 1, what="SIGINT", after=True)]
    stopped = trainer.run("--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run, plan=twice)
    assert stopped.returncode == 128 + signal.SIGINT
    assert not list(run.glob("checkpoint_*"))


def test_minutes_also_save_inside_an_epoch(trainer, tiny_data, reference, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    # Any step takes longer than 1e-9 minutes.
    trainer.run(*start, "--checkpoint-every-minutes=1e-9", plan=At(TRAIN_STEP, 3))
    steps = [path.name for path in run.glob("*_step_*.pt")]
    assert steps and set(steps) <= {f"checkpoint_epoch_0001_step_0000000{i}.pt" for i in (1, 2)}
    assert trainer.run("--resume", run, "--checkpoint-every-minutes=0").returncode == 0
    assert differences(run, reference) == []


def test_the_real_command_line_with_workers(trainer, tiny_data, reference, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--workers=2", "--checkpoint-folder", run]
    command = [sys.executable, ROOT / "train_ssd.py", *start]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    while not (run / "checkpoint_epoch_0001.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=120)
    # The end of the second epoch may have come first.
    assert process.returncode in (128 + signal.SIGTERM, 0), stdout
    assert process.returncode == 0 or f"--resume {run}" in stdout
    resumed = trainer.run("--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert differences(run, reference) == []


def test_order_and_augmentation_need_no_history(tiny_data):
    """The comparison above would miss a reference that is itself wrong: check against numpy."""
    sampler = EpochBatchSampler(NUM_TRAIN, batch_size=2, seed=3, shuffle=True)
    sampler.epoch, sampler.start_batch = 5, 1
    order = np.arange(NUM_TRAIN)
    np.random.default_rng((3, 5)).shuffle(order)
    expected = [[(5, int(i)) for i in order[start : start + 2]] for start in (2, 4)]
    assert list(sampler) == expected
