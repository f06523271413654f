"""--resize point: the pixels of a Jetson's detectNet, from training to the exported file."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from export_models import CLASSES, opinionated
from script_runs import FAST, call

from vision.datasets.image_files import read_image
from vision.datasets.sample import write_sample_dataset
from vision.deploy import detect
from vision.deploy.torch_detector import TorchDetector
from vision.runs.load_model import load_for_inference
from vision.ssd.network import RESIZES
from vision.transforms import geometry
from vision.transforms.presets import build_eval_transform, build_train_transform

NO_BOXES = {
    "boxes": np.zeros((0, 4), np.float32),
    "labels": np.zeros(0, np.int64),
    "iscrowd": np.zeros(0, bool),
}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_each_place_knows_the_same_ways():
    assert tuple(geometry.RESIZE) == tuple(detect.RESIZE) == RESIZES


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(96, 96), (300, 77), (480, 640), (500, 1001)])
def test_evaluation_and_the_device_see_the_same_pixels(resize, size):
    image = noise(480, 640)
    out, _ = build_eval_transform(size, resize=resize)(image, NO_BOXES)
    np.testing.assert_array_equal(out, detect.RESIZE[resize](image, size))


def test_points_by_hand():
    """Of 5 columns into 3: columns 0, int(1.67) and int(3.33)."""
    image = noise(2, 5)
    out, _ = build_eval_transform((2, 3), resize="point")(image, NO_BOXES)
    np.testing.assert_array_equal(out, image[:, [0, 1, 3]])


def test_training_takes_single_pixels_of_whole_images(tmp_path):
    """Black and white stay so; and a JPEG's decoder is not asked to shrink, which would filter."""
    image = np.where(noise(400, 400) > 127, 255, 0).astype(np.uint8)
    transform = build_train_transform("flip", image_size=(100, 100), mean=[0], resize="point")
    out, _ = transform(image, NO_BOXES, np.random.default_rng(0))
    assert set(np.unique(out)) == {0, 255}
    cv2.imwrite(str(tmp_path / "large.jpg"), noise(1000, 1200))
    plan = transform.plan((1000, 1200), NO_BOXES, np.random.default_rng(0))
    read = read_image(tmp_path / "large.jpg", size=(1000, 1200), min_size=plan.min_size)
    assert read.shape[:2] == (1000, 1200)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    write_sample_dataset(root, num_train=4, num_val=2, image_size=(150, 220))
    return root


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "point"
    done = call(
        "train_ssd", "--datasets", sample, "--checkpoint-folder", folder, *FAST,
        "--resize", "point",
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    return folder


def test_a_run_keeps_its_resize(run):
    checkpoint = torch.load(run / "checkpoint_last.pt", weights_only=True)
    assert checkpoint["resize"] == "point"
    assert json.loads((run / "config.json").read_text())["resize"] == "point"
    model, *_ = load_for_inference(run)
    assert model.network.resize == "point"


def test_eval_takes_the_runs_resize(run, sample):
    def metrics(*flags):
        done = call("eval_ssd", "--trained-model", run, "--dataset", sample, "--json",
                    "--workers", 0, "--score-threshold", 0, *flags)  # fmt: skip
        assert done.code == 0, done.err
        return json.loads(done.out)

    assert metrics() == metrics("--resize", "point")


def test_a_detector_resizes_as_its_network_was_trained():
    image, size = noise(150, 220), (96, 96)
    model = opinionated()
    model.network = replace(model.network, resize="point")
    found = TorchDetector(model, CLASSES, threshold=0.05).predict(image)
    model.network = replace(model.network, resize="linear")
    same = TorchDetector(model, CLASSES, threshold=0.05).predict(
        geometry.sample_points(image, size)
    )
    assert len(found) > 3
    np.testing.assert_allclose(found.confidence, same.confidence)


def test_an_exported_file_takes_it_along(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from vision.deploy.export import ExportOptions, build_export

    model = opinionated()
    model.network = replace(model.network, resize="point")
    path = build_export("onnx", model, CLASSES, ExportOptions(), trained_model="x").write(tmp_path)
    image = noise(150, 220)
    found = detect.FileDetector(path, threshold=0.05).predict(image)
    expected = TorchDetector(model, CLASSES, threshold=0.05).predict(image)
    assert 3 < len(found) == len(expected)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-3)


def test_a_cache_that_shrinks_images_is_refused(sample, tmp_path):
    done = call(
        "train_ssd", "--datasets", sample, "--checkpoint-folder", tmp_path / "run", *FAST,
        "--resize", "point", "--cache", "ram",
    )  # fmt: skip
    assert done.code == 1 and "--resize point takes pixels of whole images" in done.err
