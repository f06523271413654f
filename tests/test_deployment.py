"""From drawn pictures over training to files for other runtimes, and what these are worth."""

import json

import cv2
import numpy as np
import pytest
import torch
from export_models import TARGETS
from script_runs import call
from trained_run import MAY_LOSE

from vision.args import DEFAULT_VOTING
from vision.deploy import Detector

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytest_plugins = ["trained_run"]
CLASSES = ["cup", "lid", "pot"]


def test_no_file_loses_more_than_asked(exported):
    _, (of_torch, *rows) = exported
    assert of_torch["AP"] > 0.4 and [row["target"] for row in rows] == list(TARGETS)
    for row in rows:
        what = "AP_at_threshold" if row["target"] == "jetson" else "AP"
        wanted = of_torch[what]
        if row["target"].startswith(
            "tflite"
        ):  # its operator has no box voting, and the row says so
            first = row["steps"][0]
            assert first["step"] == "no box voting" and first["AP"] < wanted
            wanted = first["AP"]
        assert row[what] >= wanted - MAY_LOSE[row["target"]], row
        if not row["target"].endswith("-int8"):
            assert row[what] <= wanted + 0.005, row


@pytest.mark.parametrize("target", TARGETS)
def test_eval_gives_the_same_number(exported, trained, tmp_path, target):
    folder, rows = exported
    (row,) = (row for row in rows if row["target"] == target)
    file = folder / f"mb2-ssd-lite-{TARGETS[target]}"
    done = call(
        "eval_ssd", "--trained-model", file, "--dataset", trained[0], "--output-dir", tmp_path
    )
    assert (done.code, done.errors) == (0, []), done.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(row["AP"])
    assert metrics["AP50"] == pytest.approx(row["AP50"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--net", "vgg16-ssd"], "its network is mb2-ssd-lite; leave out --net vgg16-ssd"),
        (["--label-file", "other.txt"], "other.txt: not the classes of"),
    ],
)
def test_another_network_or_classes_than_the_runs_are_refused(
    trained, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("BACKGROUND\ncup\nlid\njug\n")
    done = call(
        "export_ssd", "--trained-model", trained[1], "--target", "onnx", "--output-dir", "out",
        *flags,
    )  # fmt: skip
    assert done.code == 1 and len(done.errors) == 1 and message in done.errors[0]
    assert not (tmp_path / "out").exists()


def test_checkpoints_have_the_thresholds_of_their_validation(trained):
    run = trained[1]
    best = torch.load(run / "checkpoint_best.pt", weights_only=True)
    assert [item["name"] for item in best["classes"]] == CLASSES
    assert len(best["thresholds"]) == len(CLASSES)
    for scores in best["thresholds"]:
        assert scores.keys() == {"best_f1", "at_precision"}
        assert all(0 < score < 1 for score in scores.values())


def test_files_detectors_and_the_printed_command_have_those_of_the_checkpoint(trained, tmp_path):
    run = trained[1]
    done = call(
        "export_ssd", "--trained-model", run, "--target", "onnx", "jetson", "--output-dir", tmp_path
    )
    assert (done.code, done.errors) == (0, []), done.err
    saved = torch.load(run / "checkpoint_best.pt", weights_only=True)["thresholds"]
    wanted = [scores["at_precision"] for scores in saved]
    file = tmp_path / "mb2-ssd-lite-onnx.onnx"
    about = json.loads(file.with_suffix(".json").read_text())
    assert [item["thresholds"] for item in about["classes"]] == saved
    assert [item["threshold"] for item in about["classes"]] == wanted
    assert f"--threshold={min(wanted):g} " in done.out
    pixels = cv2.imread(str(trained[0] / "train/1.png"))[:, :, ::-1].copy()
    everything = Detector.load(run, threshold=0.001, precision="fp32").predict(pixels)
    is_shown = everything.confidence >= np.array([0, *wanted])[everything.class_id]
    for path in (run, file):
        found = Detector.load(path, precision="fp32").predict(pixels)
        assert 0 < len(found) == is_shown.sum() < len(everything)
        np.testing.assert_allclose(found.confidence, everything.confidence[is_shown], atol=1e-4)


def test_one_score_instead(trained, tmp_path):
    done = call(
        "export_ssd", "--trained-model", trained[1], "--target", "jetson", "--score-threshold", 0.3,
        "--output-dir", tmp_path,
    )  # fmt: skip
    assert done.code == 0 and "--threshold=0.3 " in done.out
    about = json.loads((tmp_path / "mb2-ssd-lite-jetson.json").read_text())
    assert all("threshold" not in item for item in about["classes"])


def test_box_voting_is_the_runs_and_its_files(trained, exported):
    """It moves the boxes, of a network in torch and of a file alike, and nothing else."""
    root, run = trained
    about = json.loads((exported[0] / "mb2-ssd-lite-onnx.json").read_text())
    assert about["box_voting"] == DEFAULT_VOTING
    images = [str(root / f"train/{i}.png") for i in (1, 2, 3)]
    file = Detector.load(exported[0] / "mb2-ssd-lite-onnx.onnx", threshold=0.2)
    detectors = (
        Detector.load(run, threshold=0.2, precision="fp32"),
        Detector.load(run, threshold=0.2, precision="fp32", box_voting=0),
        file,
    )
    moved, still, in_file = (
        np.concatenate([found.xyxy for found in detector.predict(images)]) for detector in detectors
    )
    assert moved.shape == still.shape and np.abs(moved - still).max() > 0.1
    np.testing.assert_allclose(in_file, moved, atol=0.05)
