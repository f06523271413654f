"""Runs written by an older version load, evaluate and resume; `tests/fixtures` says of which."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from old_run import ROWS_APART, RUNS, draw_data, images_for_inference
from resume_runs import read_metrics
from script_runs import call

from vision.args import parse_train_args
from vision.runs.checkpoint import read_checkpoint
from vision.runs.load_model import load_for_inference
from vision.training.saved_args import read_saved_arguments, resume_arguments

pytest_plugins = ["resume_fixtures"]
FIXTURES = Path(__file__).parent / "fixtures"
FACTS = json.loads((FIXTURES / "old_runs.json").read_text())


@pytest.fixture(scope="module", params=RUNS)
def net(request) -> str:
    """The network of the run."""
    return request.param


@pytest.fixture(scope="module")
def run(net, tmp_path_factory) -> Path:
    """The folder as the older version left it, stopped inside its second epoch."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURES / f"old_run_{net}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"


@pytest.fixture(scope="module")
def data(net, tmp_path_factory) -> Path:
    """The data of the run, in another place than it was."""
    return draw_data(tmp_path_factory.mktemp("data"), RUNS[net][0])


def test_a_model_of_it_gives_the_same_output(run, net):
    facts = FACTS[net]["inference"]
    model, classes, config = load_for_inference(run)
    assert classes == facts["classes"] and config["arguments"]["net"] == net
    assert model.network.postprocessing.voting_iou == 0  # it knew no box voting
    assert read_saved_arguments(config["arguments"]).box_voting == 0
    with torch.inference_mode():
        output = model(torch.from_numpy(images_for_inference()))
    for name, ours in zip(("cls_logits", "bbox_regression"), output, strict=True):
        theirs = torch.tensor(facts[name])
        largest = theirs.abs().max().item()
        ours = ours[:, ::ROWS_APART].flatten()
        torch.testing.assert_close(ours, theirs, atol=1e-4 * largest, rtol=0)
    priors = model.priors_cxcywh.flatten()
    torch.testing.assert_close(priors, torch.tensor(facts["priors_cxcywh"]), atol=1e-6, rtol=0)


def test_its_newest_checkpoint_is_intact_and_has_its_place(run, net):
    state = read_checkpoint(run / "checkpoint_epoch_0002_step_00000005.pt")
    for name, value in FACTS[net]["at_the_stop"].items():
        assert state[name] == value, name


def test_its_configuration_is_a_command_line_today(run):
    saved = json.loads((run / "config.json").read_text())["arguments"]
    args, given = parse_train_args(["--resume", str(run)])
    merged, changes = resume_arguments(saved, args, given)
    assert changes == {}
    for name, value in saved.items():
        today = getattr(merged, name)
        assert (list(today) if isinstance(today, tuple) else today) == value, name


def test_it_evaluates_as_it_did(run, net, data, tmp_path):
    if net != "mb2-ssd-lite":
        pytest.skip("the older version evaluates no YOLO folder")
    facts = FACTS[net]["evaluation"]
    flags = ["--trained-model", run, "--dataset", data, "--workers=0", "--output-dir", tmp_path]
    assert call("eval_ssd", *flags).code == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = json.loads((tmp_path / "detections.json").read_text())
    assert metrics["AP"] == pytest.approx(facts["AP"], abs=1e-3) and metrics["AP"] > 0
    assert len(rows) == facts["num_detections"]
    best = {image: 0.0 for image in facts["best_scores"]}
    for row in rows:
        best[str(row["image_id"])] = max(best[str(row["image_id"])], row["score"])
    assert best == pytest.approx(facts["best_scores"], abs=1e-4)


def test_it_goes_on_to_the_losses_it_would_have_had(run, net, data, trainer, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    resumed = trainer.run("--resume", copy, "--datasets", data)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming checkpoint_epoch_0002_step_00000005.pt at epoch 2, step 5" in resumed.stderr
    first, last = read_metrics(copy)
    expected = FACTS[net]["last_epoch"]
    assert first == read_metrics(run)[0]
    assert last.keys() >= expected.keys()
    for name, value in expected.items():
        if "AP" in name or "AR" in name:  # equal scores may change places on another machine
            value = None if value is None else pytest.approx(value, abs=0.02)
        else:
            value = pytest.approx(value, rel=1e-5)
        assert last[name] == value, name
