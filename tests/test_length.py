"""How long a run trains: --patience, --max-hours, and --epochs left out."""

import json

import pytest
from resume_runs import differences, read_metrics
from script_runs import FAST, call

from vision.datasets.sample import write_sample_dataset
from vision.engine.state import has_stalled
from vision.runs.checkpoint import epoch_path

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
        (4, 99, 0, 1, False),
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
