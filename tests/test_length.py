"""How long a run trains: --patience, --max-hours, and --epochs left out."""

import json
import math
import os
import signal

import pytest
from resume_runs import differences, read_metrics
from script_runs import FAST, call

from vision.args import parse_train_args
from vision.datasets.sample import write_sample_dataset
from vision.engine.signals import Interrupted, StopSignals
from vision.engine.state import has_stalled
from vision.runs.checkpoint import epoch_path, read_checkpoint
from vision.training.length import choose_epochs, default_epochs

# A rate at which nothing is learned: AP stays what it is.
STILL = ["--lr=1e-30", "--ema=0", "--eval-every=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """5 train images, so that an epoch has one batch of 5, and 4 val images."""
    root = tmp_path_factory.mktemp("data")
    write_sample_dataset(root, num_train=5, num_val=4, image_size=(90, 120))
    return root


def train(data, run, *flags):
    flags = ["--datasets", data, "--checkpoint-folder", run, *FAST, *flags]
    result = call("train_ssd", *flags)
    assert (result.code, result.errors) == (0, [])
    return result


def arguments(run) -> dict:
    return json.loads((run / "config.json").read_text())["arguments"]


# ---- --patience


@pytest.mark.parametrize(
    ("best_epoch", "epoch", "patience", "eval_every", "expected"),
    [
        (4, 6, 2, 1, True),
        (4, 5, 2, 1, False),
        (4, 7, 2, 2, False),  # validated after 6 only
        (4, 8, 2, 2, True),
        (None, 9, 2, 1, False),  # no AP yet
    ],
)
def test_what_has_stalled(best_epoch, epoch, patience, eval_every, expected):
    best = {"AP": 0.5, "epoch": best_epoch}
    assert has_stalled(best, epoch, patience=patience, eval_every=eval_every) is expected


def test_patience_ends_a_run_whose_ap_stays_and_names_the_best(data, tmp_path):
    run = tmp_path / "run"
    ended = train(data, run, "--epochs=6", "--patience=2", *STILL)
    best_line, line = ended.out.splitlines()
    assert best_line.endswith("in epoch 1, checkpoint_best.pt")
    stalled = "val AP has not risen for 2 validations (--patience)"
    assert line == f"{run}: 3 epochs done of 6: {stalled}"
    assert len(read_metrics(run)) == 3 and not epoch_path(run, 4).exists()
    assert (run / "checkpoint_best.pt").samefile(epoch_path(run, 1))

    again = call("train_ssd", "--resume", run)
    assert again.code == 0 and len(read_metrics(run)) == 3
    assert again.out == (
        f"{run}: finished, 3 of 6 epochs are done: {stalled}. To train longer: "
        f"train_ssd.py --resume {run} --patience 0\n"
    )
    # More patience on the way gives the run that had it from the beginning.
    assert call("train_ssd", "--resume", run, "--patience=3").code == 0
    train(data, tmp_path / "other", "--epochs=6", "--patience=3", *STILL)
    assert len(read_metrics(run)) == 4
    assert differences(run, tmp_path / "other") == []


def test_patience_needs_validations(data, tmp_path):
    flags = ["--datasets", data, "--checkpoint-folder", tmp_path / "run", *FAST, "--patience=2"]
    refused = call("train_ssd", *flags, "--eval-every=0")
    assert refused.code == 2 and "--patience counts validations" in refused.err
    only_train = tmp_path / "data"
    write_sample_dataset(only_train, num_train=2, num_val=1, image_size=(90, 120))
    (only_train / "annotations/instances_val2017.json").unlink()
    refused = call("train_ssd", *flags, "--datasets", only_train)
    assert refused.code == 1
    assert refused.errors == ["error: --patience 2 counts validations: give a val split"]
    assert not (tmp_path / "run").exists()


# ---- --max-hours


def test_max_hours_saves_and_the_run_goes_on_bit_for_bit(data, tmp_path):
    run, flags = tmp_path / "run", ["--epochs=3", "--patience=3"]
    ended = train(data, run, *flags, "--max-hours=1e-6")
    saved = "checkpoint_epoch_0001_step_00000001.pt"
    assert ended.out == (
        f"{run}: stopped by --max-hours after step 1, newest checkpoint {saved}; to go on: "
        f"train_ssd.py --resume {run}\n"
    )
    assert (run / saved).is_file()
    # The limit stays, and is that of each call.
    validating = call("train_ssd", "--resume", run)
    assert validating.code == 0 and "stopped by --max-hours after step 1" in validating.out
    done = call("train_ssd", "--resume", run, "--max-hours=0")
    assert (done.code, done.errors) == (0, []) and "3 epochs done" in done.out
    train(data, tmp_path / "other", *flags)
    assert differences(run, tmp_path / "other") == []


def test_the_best_until_now_is_named_when_the_time_is_up(data, tmp_path):
    run = tmp_path / "run"
    train(data, run, "--epochs=1")
    ended = call("train_ssd", "--resume", run, "--epochs=3", "--max-hours=1e-6")
    assert (ended.code, ended.errors) == (0, [])
    best, stopped = ended.out.splitlines()
    assert best.startswith(f"{run}: best AP 0.") and best.endswith("epoch 1, checkpoint_best.pt")
    assert stopped.startswith(f"{run}: stopped by --max-hours after step 2, ")


def test_a_signal_counts_where_the_time_is_up_too():
    with StopSignals(stop_at=0.0) as signals:
        with pytest.raises(Interrupted) as stopped:
            signals.check()
        assert (stopped.value.code, stopped.value.cause) == (0, "--max-hours")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stopped:
            signals.check()
        assert (stopped.value.code, stopped.value.cause) == (128 + signal.SIGTERM, "SIGTERM")


# ---- --epochs left out


@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs"),
    [(1, 300), (3, 300), (6, 150), (13, 70), (29, 32), (30, 30), (7392, 30)],
)
def test_epochs_by_steps(steps_per_epoch, epochs):
    argv = ["--datasets", "data", "--checkpoint-folder", "run"]
    assert default_epochs(parse_train_args(argv)[0], steps_per_epoch) == epochs
    multi_step = parse_train_args([*argv, "--scheduler=multi-step"])[0]
    assert default_epochs(multi_step, steps_per_epoch) == 30


@pytest.mark.parametrize(
    ("flags", "steps", "seconds_left", "epochs", "said"),
    [
        ([], 10, math.inf, 90, "--epochs 90, the first number that reaches 900 steps: 900 "
         "steps, about 15 min"),
        ([], 2, math.inf, 300, "--epochs 300, the most: 600 steps, about 50 min"),
        ([], 7392, math.inf, 30, "--epochs 30, the fewest: 221760 steps, about 5 min"),
        (["--max-hours=1"], 10, 3600, 90, "--epochs 90, the first number"),
        # 0.85 of 10 minutes are 51 epochs of 10 seconds.
        (["--max-hours=0.2"], 10, 600, 51, "--epochs 51, as many as --max-hours 0.2 has time for"),
        (["--max-hours=0.2"], 10, 9, 1, "--epochs 1, as many as --max-hours 0.2 has time for"),
    ],
)  # fmt: skip
def test_epochs_by_time(flags, steps, seconds_left, epochs, said, caplog):
    argv = ["--datasets", "data", "--checkpoint-folder", "run", *flags]
    args = parse_train_args(argv)[0]
    with caplog.at_level("INFO"):
        chosen = choose_epochs(args, steps, 10.0, seconds_left=seconds_left)
    assert chosen == epochs and caplog.messages[0].startswith(said)
    is_short = "--max-hours 0.2 ends inside the first epoch" in caplog.messages
    assert is_short == (seconds_left < 10)


@pytest.fixture
def short(monkeypatch):
    """A run without --epochs has two; its length is planned by one step."""
    monkeypatch.setattr("vision.training.length.FEWEST_EPOCHS", 2)
    monkeypatch.setattr("vision.training.length.DEFAULT_STEPS", 2)
    monkeypatch.setattr("vision.training.length.PROBE_SECONDS", 0.0)
    return [*(flag for flag in FAST if not flag.startswith("--epochs")), "--augmentation=ssd"]


@pytest.mark.parametrize(
    "flags", [["--ema=0.9", "--workers=1"], ["--optimizer=sgd", "--cache=ram"]]
)
def test_the_run_is_that_of_the_same_number_given(data, tmp_path, short, flags):
    run, other = tmp_path / "run", tmp_path / "other"
    argv = ["--datasets", data, *short, *flags, "--checkpoint-folder"]
    left_out = call("train_ssd", *argv, run)
    assert (left_out.code, left_out.errors) == (0, [])
    assert "--epochs 2, the fewest: 2 steps, about " in left_out.err
    given = call("train_ssd", *argv, other, "--epochs=2")
    assert given.code == 0 and "about" not in given.err
    assert differences(run, other) == [] and arguments(run) == arguments(other)
    assert arguments(run)["epochs"] == 2
    first = epoch_path(run, 1)
    assert read_checkpoint(first)["config"]["arguments"] == arguments(run)
    resumed = call("train_ssd", "--resume", first)
    assert resumed.code == 0 and "about" not in resumed.err
    assert differences(run, other) == []


def test_the_schedule_is_planned_for_max_hours_and_kept_by_resume(data, tmp_path, short):
    run, other = tmp_path / "run", tmp_path / "other"
    argv = ["--datasets", data, *short, "--checkpoint-folder"]
    ended = call("train_ssd", *argv, run, "--max-hours=1e-6")
    assert (ended.code, ended.errors) == (0, [])
    assert "--epochs 1, as many as --max-hours 1e-06 has time for: 1 steps, about" in ended.err
    assert "stopped by --max-hours after step 1" in ended.out
    resumed = call("train_ssd", "--resume", run, "--max-hours=0")
    assert resumed.code == 0 and f"{run}: 1 epochs done" in resumed.out
    assert call("train_ssd", *argv, other, "--epochs=1").code == 0
    assert differences(run, other) == []


def test_a_configuration_that_has_lost_the_number_is_one_line(data, tmp_path):
    run = tmp_path / "run"
    train(data, run)
    config = json.loads((run / "config.json").read_text())
    config["arguments"]["epochs"] = None
    (run / "config.json").write_text(json.dumps(config))
    resumed = call("train_ssd", "--resume", run)
    assert resumed.code == 1
    assert resumed.errors == [f"error: {run}/config.json: it has lost --epochs; give --epochs N"]
    given = call("train_ssd", "--resume", run, "--epochs=1")
    assert given.code == 0 and "finished, 1 of 1 epochs are done" in given.out


def test_a_dry_run_says_the_length(data, tmp_path, short, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("train_ssd", "--datasets", data, *short, "--dry-run")
    assert result.code == 0 and "a run: 2 epochs of 1 steps\n" in result.out
