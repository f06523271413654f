"""TFLite files, in LiteRT's interpreter: with the detection operator, and as raw heads."""

import numpy as np
import pytest

from vision.datasets.image_files import read_image
from vision.deploy import Detector, detect
from vision.runs.load_model import load_for_inference

pytest.importorskip("onnx")
pytest.importorskip("litert_torch")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

from vision.deploy.export import ExportOptions, build_export  # noqa: E402

pytest_plugins = ["trained_run"]
THRESHOLD = 0.1
NAMES = ["cup", "lid", "pot"]


@pytest.fixture(scope="module")
def images(trained):
    return [read_image(trained[0] / f"train/{i}.png") for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def expected(trained, images):
    """What torch finds without box voting, which these files do not have: all three classes."""
    detector = Detector.load(trained[1], threshold=THRESHOLD, precision="fp32", box_voting=0)
    found = detector.predict(images)
    assert {name for each in found for name in each.names} == set(NAMES)
    return found


@pytest.fixture(scope="module")
def file(exported):
    """That with the operator."""
    return exported[0] / "mb2-ssd-lite-tflite.tflite"


@pytest.fixture(scope="module")
def raw_file(trained, tmp_path_factory):
    model, classes, _ = load_for_inference(trained[1])
    options = ExportOptions(raw_heads=True)
    export = build_export("tflite", model, classes, options, trained_model="x")
    return export.write(tmp_path_factory.mktemp("raw")), model


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.names == other.names
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)
        np.testing.assert_allclose(one.xyxy, other.xyxy, atol=0.05)


def test_raw_heads_give_what_torch_gives(raw_file, trained, images, expected):
    """With box voting: without the operator nothing is in its way."""
    path, _ = raw_file
    wanted = Detector.load(trained[1], threshold=THRESHOLD, precision="fp32").predict(images)
    found = Detector.load(path, threshold=THRESHOLD).predict(images)
    assert_same(found, wanted)
    moved = [
        np.abs(each.xyxy - other.xyxy).max() for each, other in zip(found, expected, strict=True)
    ]
    assert max(moved) > 0.1  # pixels


@pytest.mark.parametrize("threads", [1, 2, 3, 16, 64])
def test_the_operator_gives_every_class_with_any_number_of_threads(file, images, expected, threads):
    """With two threads of three classes the operator itself would leave out the last one."""
    detector = detect.FileDetector(file, threshold=THRESHOLD, threads=threads)
    assert_same(detector.predict(images), expected)


def test_what_coral_frigate_mediapipe_and_android_read(file, images, expected):
    """One uint8 NHWC input; y1, x1, y2, x2, classes from 0, scores, count, in this order."""
    runner = interpreter.Interpreter(str(file), num_threads=2)
    runner.allocate_tensors()
    (entry,) = runner.get_input_details()
    assert entry["dtype"] == np.uint8 and entry["shape"].tolist() == [1, 96, 96, 3]
    runner.set_tensor(entry["index"], images[0][None])
    runner.invoke()
    boxes, classes, scores, count = (
        runner.get_tensor(output["index"]) for output in runner.get_output_details()
    )
    assert boxes.shape == (*scores.shape, 4) and classes.shape == scores.shape
    assert scores[0].argmax() == 0 and int(count[0]) >= len(expected[0])
    assert [NAMES[int(c)] for c in classes[0, : len(expected[0])]] == expected[0].names
    first = boxes[0, 0, [1, 0, 3, 2]].clip(0, 1) * 96
    np.testing.assert_allclose(first, expected[0].xyxy[0], atol=0.05)
    names = [item["op_name"] for item in runner._get_ops_details()]
    assert names.count("TFLite_Detection_PostProcess") == 1


def test_raw_heads_are_scores_encodings_and_priors(raw_file, images):
    path, model = raw_file
    scores, encodings, priors = detect.FileDetector(path).raw(images[0][None])
    own = model.priors_cxcywh[:, [1, 0, 3, 2]].numpy()
    assert scores.shape == encodings.shape == (1, len(own), 4)
    np.testing.assert_allclose(priors, own)
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
    written = np.loadtxt(path.with_name("priors.txt"))
    np.testing.assert_allclose(written, own, atol=1e-6)


def test_names_without_the_background_for_readers_of_tflite(file):
    assert file.with_name("labelmap.txt").read_text().split() == NAMES


def test_int8_is_in_int8(file):
    int8 = file.with_name("mb2-ssd-lite-tflite-int8.tflite")
    assert int8.stat().st_size < 0.6 * file.stat().st_size
    runner = interpreter.Interpreter(str(int8))
    weights = [t for t in runner.get_tensor_details() if t["dtype"] == np.int8]
    assert any(len(t["quantization_parameters"]["scales"]) > 1 for t in weights)
    assert runner.get_input_details()[0]["dtype"] == np.uint8


def test_another_file_is_refused(tmp_path):
    for content in (b"", b"garbage"):
        (tmp_path / "x.tflite").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.tflite: "):
            Detector.load(tmp_path / "x.tflite")
