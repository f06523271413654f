"""Resuming with other flags, other data, damaged or foreign files, or from an older checkpoint."""

import json
import math
import os
import shutil
import signal

import pytest
from resume_runs import RECIPE, differences, read_metrics
from trainer_host import At

from vision.runs.checkpoint import LAST, epoch_path, read_checkpoint, step_path

pytest_plugins = ["resume_fixtures"]
TRAIN_STEP = "vision.engine.train.train_step"


@pytest.fixture(scope="module")
def halfway(tmp_path_factory, trainer, tiny_data):
    """A run that was stopped after two of the three steps of its second and last epoch."""
    run = tmp_path_factory.mktemp("halfway") / "run"
    start = ["--datasets", tiny_data, *RECIPE, "--checkpoint-folder", run]
    stopped = trainer.run(*start, plan=At(TRAIN_STEP, 5, what="SIGTERM"))
    assert stopped.returncode == 128 + signal.SIGTERM
    assert read_checkpoint(step_path(run, 2, 5))["progress"]["batches"] == 2
    return run


def clone(run, folder):
    """Copy a run. Its checkpoints are linked: the trainer replaces files, it never changes them."""
    copy = folder / "run"
    shutil.copytree(run, copy, copy_function=os.link, ignore=shutil.ignore_patterns("run.lock"))
    return copy


def replace(path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def history(run) -> list[dict]:
    return json.loads((run / "config.json").read_text())["history"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_newest_file_is_named_and_passed_over(
    trainer, reference, halfway, tmp_path, damage
):
    run = clone(halfway, tmp_path)
    newest = step_path(run, 2, 5)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    lengths = {"cut": len(content) // 3, "flipped": len(content), "empty": 0}
    replace(newest, content[: lengths[damage]])
    (run / LAST).unlink()
    (run / LAST).hardlink_to(newest)
    resumed = trainer.run("--resume", run)
    assert resumed.returncode == 0
    assert f"passed over: {newest}: " in resumed.stderr
    assert "resuming checkpoint_epoch_0001.pt at epoch 2, step 3" in resumed.stderr
    assert differences(run, reference) == []


def test_without_an_intact_file_it_stops(trainer, halfway, tmp_path):
    run = clone(halfway, tmp_path)
    for path in run.glob("checkpoint_*.pt"):
        replace(path, path.read_bytes()[:-1])
    resumed = trainer.run("--resume", run)
    assert resumed.returncode == 1
    (error,) = resumed.stderr.splitlines()
    assert error.startswith(f"error: {run}: no intact checkpoint is left: ")
    assert len(list(run.glob("checkpoint_*.pt"))) == 4


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(trainer, reference, tmp_path):
    run = clone(reference, tmp_path)
    for path in run.glob("checkpoint_*.pt"):
        path.unlink()
    resumed = trainer.run("--resume", run)
    assert resumed.returncode == 1
    assert "no checkpoint there, but the metrics of 2 epochs: put one back" in resumed.stderr
    assert len(read_metrics(run)) == 2


def test_a_checkpoint_of_another_run_is_passed_over(trainer, tiny_data, halfway, tmp_path):
    run, other = clone(halfway, tmp_path), tmp_path / "other"
    start = ["--datasets", tiny_data, *RECIPE, "--seed=8", "--epochs=1", "--checkpoint-folder"]
    assert trainer.run(*start, other).returncode == 0
    shutil.copy(epoch_path(other, 1), epoch_path(run, 9))
    resumed = trainer.run("--resume", run)
    assert resumed.returncode == 0
    assert "epoch_0009.pt: a checkpoint of another run, with --seed 8 instead" in resumed.stderr
    named = trainer.run("--resume", epoch_path(run, 9))
    assert named.returncode == 1 and "a checkpoint of another run" in named.stderr


def test_a_lost_configuration_is_taken_from_the_checkpoint(trainer, reference, halfway, tmp_path):
    run = clone(halfway, tmp_path)
    (run / "config.json").unlink()
    resumed = trainer.run("--resume", run)
    assert resumed.returncode == 0
    assert f"{run / 'config.json'} is missing; taken from checkpoint_epoch_0002" in resumed.stderr
    assert differences(run, reference) == [] and (run / "config.json").is_file()


def test_going_back_sets_the_later_checkpoints_aside(trainer, reference, tmp_path):
    run = clone(reference, tmp_path)
    old = epoch_path(run, 2).read_bytes()
    plan = At(TRAIN_STEP, 2)
    back = trainer.run("--resume", epoch_path(run, 1), plan=plan)
    assert back.returncode == -signal.SIGKILL
    assert f"later checkpoints were moved to {run / 'set_aside_1'}" in back.stderr
    assert epoch_path(run / "set_aside_1", 2).read_bytes() == old
    assert len((run / "set_aside_1" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run / LAST).samefile(epoch_path(run, 1)) and len(read_metrics(run)) == 1
    # Killed at once, it goes on from where it went back to.
    assert trainer.run("--resume", run).returncode == 0
    assert differences(run, reference) == []


def test_a_finished_run_says_how_to_train_longer(trainer, reference, tmp_path):
    run = clone(reference, tmp_path)
    (run / LAST).unlink()
    ended = trainer.run("--resume", run)
    assert ended.returncode == 0
    assert f"{run}: finished, 2 of 2 epochs are done." in ended.stdout
    assert f"--resume {run} --epochs 12" in ended.stdout
    assert differences(run, reference) == []  # with the link repaired


def test_a_longer_cosine_is_that_of_the_new_number_of_epochs(trainer, reference, tmp_path):
    run = clone(reference, tmp_path)
    longer = trainer.run("--resume", run, "--epochs=4", "--lr=0.002")
    assert longer.returncode == 0
    # 3 steps of warm-up; step 6 is a third of the way to step 12, and 3 of 3 to step 6.
    assert "12 steps in all instead of 6: the learning rate goes on at 75 % of" in longer.stderr
    lrs = [record["lr"] for record in read_metrics(run)]
    expected = [0.002 * 0.5 * (1 + math.cos(math.pi * part)) for part in (5 / 9, 8 / 9)]
    assert lrs[2:] == pytest.approx(expected)
    assert history(run) == [{"epoch": 2, "step": 6, "changes": {"epochs": [2, 4]}}]


@pytest.mark.parametrize("name", ["", "checkpoint_epoch_0007.pt"], ids=["folder", "file"])
def test_what_is_not_there(trainer, tmp_path, name):
    ended = trainer.run("--resume", tmp_path / name)
    assert ended.returncode == 1
    looked_for = "no such checkpoint" if name else "no run there (looked for config.json and"
    (error,) = ended.stderr.splitlines()
    assert error.startswith(f"error: {tmp_path / name}: {looked_for}")
    assert not list(tmp_path.iterdir())


def test_a_refused_flag_becomes_history_when_forced(trainer, halfway, tmp_path):
    run = clone(halfway, tmp_path)
    refused = trainer.run("--resume", run, "--weight-decay=0.1", "--workers=1")
    assert refused.returncode == 1
    (error,) = refused.stderr.splitlines()[-1:]
    assert "--weight-decay was " in error and "is 0.1 now" in error and "workers" not in error
    assert history(run) == []
    forced = trainer.run("--resume", run, "--weight-decay=0.1", "--force-override")
    assert forced.returncode == 0
    assert "weight_decay: " in forced.stderr and "0.1 from here on" in forced.stderr
    (entry,) = history(run)
    assert entry["step"] == 5 and entry["changes"]["weight_decay"][1] == 0.1
    config = read_checkpoint(epoch_path(run, 2))["config"]
    assert config["arguments"]["weight_decay"] == 0.1 and config["history"] == [entry]


def test_what_cannot_be_forced_is_one_line(trainer, halfway, tmp_path):
    run = clone(halfway, tmp_path)
    forced = trainer.run("--resume", run, "--mb2-width-mult=0.5", "--force-override")
    assert forced.returncode == 1 and "Traceback" not in forced.stderr
    assert "error: the checkpoint does not fit this run: " in forced.stderr
    assert history(run) == []


def test_another_optimizer_starts_without_momentum(trainer, halfway, tmp_path):
    run = clone(halfway, tmp_path)
    other = "sgd"
    forced = trainer.run("--resume", run, f"--optimizer={other}", "--force-override")
    assert forced.returncode == 0
    assert "momentum starts anew" in forced.stderr
    group = read_checkpoint(epoch_path(run, 2))["optimizer"]["param_groups"][0]
    assert "momentum" in group and "betas" not in group


def test_data_that_was_moved_is_the_same(trainer, tiny_data, reference, halfway, tmp_path):
    run, moved = clone(halfway, tmp_path), tmp_path / "moved"
    shutil.copytree(tiny_data, moved)
    resumed = trainer.run("--resume", run, "--datasets", moved)
    assert resumed.returncode == 0
    assert differences(run, reference) == []
    assert [list(entry["changes"]) for entry in history(run)] == [["datasets"]]


def edit_annotations(data, folder, edit):
    """Copy a data set and change its training annotations."""
    copy = folder / "edited"
    shutil.copytree(data, copy)
    for path in (copy / "annotations").iterdir():
        coco = json.loads(path.read_text())
        edit(coco, path.name)
        path.write_text(json.dumps(coco))
    return copy


def test_data_of_other_classes_is_refused_with_the_difference(
    trainer, tiny_data, halfway, tmp_path
):
    def rename(coco, name):
        coco["categories"][0]["name"] = "hexagon"

    edited = edit_annotations(tiny_data, tmp_path, rename)
    refused = trainer.run("--resume", clone(halfway, tmp_path), "--datasets", edited)
    assert refused.returncode == 1
    assert "without ['circle'], with ['hexagon'] besides" in refused.stderr


def test_other_training_data_begins_the_epoch_again(trainer, tiny_data, halfway, tmp_path):
    def drop_a_box(coco, name):
        if "train" in name:
            coco["annotations"].pop()

    run = clone(halfway, tmp_path)
    edited = edit_annotations(tiny_data, tmp_path, drop_a_box)
    resumed = trainer.run("--resume", run, "--datasets", edited)
    assert resumed.returncode == 0
    assert "the training data changed inside epoch 2, so it begins again" in resumed.stderr
    assert "may not end in the same bits" in resumed.stderr
    assert read_metrics(run)[1]["step"] == 5 + 3
