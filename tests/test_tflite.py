"""TFLite files, in LiteRT's interpreter: with the detection operator, and as raw heads."""

import json

import numpy as np
import pytest
import torch
from export_models import CLASSES, opinionated, pixels
from script_runs import call

from vision.datasets.layouts.choose import open_split
from vision.datasets.sample import write_sample_dataset
from vision.deploy import Detector, detect
from vision.deploy.torch_detector import TorchDetector

pytest.importorskip("onnx")
pytest.importorskip("litert_torch")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

from vision.deploy.export import ExportOptions, build_export  # noqa: E402

THRESHOLD = 0.35
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def model():
    return opinionated()


@pytest.fixture(scope="module")
def image(model):
    return pixels(model, num_images=1)[0].numpy()


@pytest.fixture(scope="module")
def expected(model, image):
    return TorchDetector(model, CLASSES, threshold=THRESHOLD).predict(image)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """What export_ssd.py writes for both targets."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("data", "exported"))
    write_sample_dataset(root, num_train=4, num_val=2, image_size=(96, 96))
    names = [item.name for item in open_split(root, "val").index.categories]
    weights = folder / "net.pth"
    torch.save(opinionated(num_classes=len(names) + 1).state_dict(), weights)
    (folder / "labels.txt").write_text("\n".join(["BACKGROUND", *names, ""]))
    done = call(
        "export_ssd", "--trained-model", weights, "--net", "mb2-ssd-lite", "--image-size", 96,
        "--target", "tflite", "tflite-int8", "--dataset", root, "--output-dir", folder / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder / "out", names


@pytest.fixture(scope="module", params=[False, True], ids=["operator", "raw heads"])
def file(model, request, tmp_path_factory):
    options = ExportOptions(score_threshold=THRESHOLD, raw_heads=request.param)
    export = build_export("tflite", model, CLASSES, options, trained_model="x")
    return export.write(tmp_path_factory.mktemp("tflite"))


def test_the_file_gives_what_torch_gives(file, image, expected):
    """Row by row, whatever the order of near ties.

    This network finds more than the operator's 100 boxes, and then the operator leaves out the
    last class (see docs/deployment.md): a known difference, not an accepted one.
    """
    is_raw = json.loads(file.with_suffix(".json").read_text())["raw_heads"]
    found = Detector.load(file).predict(image)
    assert len(expected) > 3
    differences = (
        np.abs(found.xyxy[:, None] - expected.xyxy).max(axis=2)
        + 1e3 * np.abs(found.confidence[:, None] - expected.confidence)
        + 1e3 * (found.class_id[:, None] != expected.class_id)
    )
    same = differences.min(axis=0)[:-1] < 0.05
    assert same[:10].all() and (same.all() if is_raw else same.mean() > 0.7)


def test_what_coral_frigate_mediapipe_and_android_read(file, image, expected):
    """One uint8 NHWC input; y1, x1, y2, x2, classes from 0, scores, count, in this order."""
    if json.loads(file.with_suffix(".json").read_text())["raw_heads"]:
        pytest.skip("of the file with the operator")
    runner = interpreter.Interpreter(str(file))
    runner.allocate_tensors()
    (entry,) = runner.get_input_details()
    assert entry["dtype"] == np.uint8 and entry["shape"].tolist() == [1, 96, 96, 3]
    runner.set_tensor(entry["index"], image[None])
    runner.invoke()
    boxes, classes, scores, count = (
        runner.get_tensor(output["index"]) for output in runner.get_output_details()
    )
    assert boxes.shape == (*scores.shape, 4) and classes.shape == scores.shape
    assert scores[0].argmax() == 0 and int(count[0]) >= len(expected)
    assert [NAMES[int(c)] for c in classes[0, :3]] == expected.names[:3]
    first = boxes[0, 0, [1, 0, 3, 2]].clip(0, 1) * 96
    np.testing.assert_allclose(first, expected.xyxy[0], atol=0.05)
    names = [item["op_name"] for item in runner._get_ops_details()]
    assert names.count("TFLite_Detection_PostProcess") == 1


def test_raw_heads_are_scores_encodings_and_priors(file, model, image):
    if not json.loads(file.with_suffix(".json").read_text())["raw_heads"]:
        pytest.skip("of the file without the operator")
    scores, encodings, priors = detect.FileDetector(file).raw(image[None])
    own = model.priors_cxcywh[:, [1, 0, 3, 2]].numpy()
    assert scores.shape == encodings.shape == (1, len(own), 4)
    np.testing.assert_allclose(priors, own)
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
    written = np.loadtxt(file.with_name("priors.txt"))
    np.testing.assert_allclose(written, own, atol=1e-6)


def test_what_the_script_writes(exported):
    folder, names = exported
    files = {f"mb2-ssd-lite-{t}" for t in ("tflite", "tflite-int8")}
    assert {path.name for path in folder.iterdir()} == {
        *(f"{file}.{suffix}" for file in files for suffix in ("tflite", "json")),
        "labels.txt", "labelmap.txt", "detect.py", "deployment.json",
    }  # fmt: skip
    assert (folder / "labelmap.txt").read_text().split() == names
    rows = json.loads((folder / "deployment.json").read_text())
    assert [row["target"] for row in rows] == ["pytorch", "tflite", "tflite-int8"]
    assert rows[1]["AP"] == pytest.approx(rows[0]["AP"], abs=0.005)


def test_int8_is_in_int8(exported):
    sizes = []
    for target in ("tflite", "tflite-int8"):
        path = exported[0] / f"mb2-ssd-lite-{target}.tflite"
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    runner = interpreter.Interpreter(str(path))
    weights = [t for t in runner.get_tensor_details() if t["dtype"] == np.int8]
    assert any(len(t["quantization_parameters"]["scales"]) > 1 for t in weights)
    assert runner.get_input_details()[0]["dtype"] == np.uint8


def test_another_file_is_refused(tmp_path):
    for content in (b"", b"garbage"):
        (tmp_path / "x.tflite").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.tflite: "):
            Detector.load(tmp_path / "x.tflite")
