"""The sample data set: COCO's layout with COCO's traps, the same each time, safe to interrupt."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision.datasets.coco_index import load_coco_index
from vision.datasets.sample import main, write_sample_dataset
from vision.datasets.sample_drawing import MIN_VISIBLE, draw_image

SMALL = {"num_train": 24, "num_val": 5, "image_size": (120, 160)}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    assert write_sample_dataset(root, **SMALL) == ["train", "val"]
    return root


def load(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / f"instances_{split}2017.json"))


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("split", "num_images"), [("train", 24), ("val", 5)])
def test_layout_and_traps_of_coco(sample, split, num_images):
    coco = load(sample, split)
    assert sorted(coco.cats) == [1, 2, 4, 9]
    assert len(coco.imgs) == num_images
    files = {path.name for path in (sample / f"{split}2017").iterdir()}
    assert files == {image["file_name"] for image in coco.imgs.values()}
    assert len(coco.anns) == len(coco.dataset["annotations"]), "annotation ids are unique"
    assert min(coco.anns) > 0
    assert any(not coco.getAnnIds(image_id) for image_id in coco.imgs)
    folder = sample / f"{split}2017"
    modes = [cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for name in files]
    assert {image.shape for image in modes} == {(120, 160, 3), (120, 160)}


def test_splits_share_no_image_id(sample):
    train, val = load(sample, "train"), load(sample, "val")
    assert not set(train.imgs) & set(val.imgs)
    assert len(load_coco_index(sample / "annotations/instances_train2017.json").categories) == 4


def test_crowd_is_run_lengths(sample):
    coco = load(sample, "train")
    crowds = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert len(crowds) == 2
    for crowd in crowds:
        mask = coco.annToMask(crowd)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert mask.sum() == crowd["area"] and box == crowd["bbox"]


def test_polygons_areas_and_boxes_agree(sample):
    coco = load(sample, "train")
    objects = coco.loadAnns(coco.getAnnIds(iscrowd=False))
    assert len(objects) > 40
    for annotation in objects:
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + width <= 160 and y + height <= 120
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
        found = [*points.min(axis=0), *points.max(axis=0) + 1]
        np.testing.assert_allclose(found, [x, y, x + width, y + height], atol=0)
        # Polygons run through the centres of the rim's pixels, so they hold about half of the rim.
        inner = coco.annToMask(annotation).sum()
        assert inner <= annotation["area"] <= inner + 2.5 * (width + height)


@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_against_itself_scores_one(sample, split):
    coco = load(sample, split)
    results = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in coco.dataset["annotations"]
        if not a["iscrowd"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_every_shape_stays_visible_and_sizes_vary():
    sides, counts, num_overlaps = [], [], 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, shapes = draw_image((480, 640), 1 + seed % 8, rng)
        assert image.shape == (480, 640, 3) and image.dtype == np.uint8
        counts.append(len(shapes))
        covered = np.zeros((480, 640), int)
        for shape in shapes:
            assert shape.mask.sum() >= MIN_VISIBLE * shape.num_pixels
            covered += shape.mask
            rows, columns = np.nonzero(shape.mask)
            sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
            num_overlaps += shape.mask.sum() < shape.num_pixels
        assert covered.max() == 1
    assert min(counts) == 1 and max(counts) >= 7
    assert min(sides) < 60 and max(sides) > 250 and num_overlaps > 10


def test_same_arguments_draw_the_same_bytes(sample, tmp_path):
    write_sample_dataset(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(sample)
    write_sample_dataset(tmp_path / "other", **SMALL, seed=1)
    assert contents(tmp_path / "other").keys() != contents(sample).keys()


def test_complete_folder_is_left_alone(sample, tmp_path):
    root = tmp_path / "set"
    write_sample_dataset(root, num_train=4, num_val=4, image_size=(60, 80))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_sample_dataset(root, num_train=9, num_val=9, seed=3) == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_killed_run_is_completed_by_the_next(tmp_path):
    arguments = ["--num-train", "10", "--num-val", "4"]
    command = [sys.executable, "-m", "vision.datasets.sample", *arguments, "--path"]
    folder = tmp_path / "killed" / "train2017"
    process = subprocess.Popen([*command, tmp_path / "killed"], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.jpg"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/annotations/instances_train2017.json").exists()
    first = min(folder.glob("*.jpg"))
    kept = first.stat().st_mtime_ns
    assert main([*arguments, "--path", str(tmp_path / "killed")]) == 0
    assert main([*arguments, "--path", str(tmp_path / "straight")]) == 0
    assert first.stat().st_mtime_ns == kept
    straight, completed = contents(tmp_path / "straight"), contents(tmp_path / "killed")
    assert {path: completed[path] for path in straight} == straight


def test_foreign_image_is_neither_used_nor_overwritten(tmp_path, capsys):
    write_sample_dataset(tmp_path / "set", num_train=4, num_val=4)
    (tmp_path / "set/annotations/instances_train2017.json").unlink()
    image = min((tmp_path / "set/train2017").iterdir())
    image.write_bytes(b"a photo")
    assert main(["--path", str(tmp_path / "set"), "--num-train", "4", "--num-val", "4"]) == 1
    error = capsys.readouterr().err
    assert str(image) in error and error.count("\n") == 1
    assert image.read_bytes() == b"a photo"


def test_missing_image_of_a_complete_split_is_named(tmp_path):
    write_sample_dataset(tmp_path, num_train=4, num_val=4, image_size=(60, 80))
    image = min((tmp_path / "val2017").iterdir())
    image.unlink()
    with pytest.raises(ValueError, match=image.name):
        write_sample_dataset(tmp_path, num_train=4, num_val=4, image_size=(60, 80))


def test_annotations_are_json_that_names_its_source(sample):
    content = json.loads((sample / "annotations/instances_val2017.json").read_text())
    assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
    assert {image["license"] for image in content["images"]} == {content["licenses"][0]["id"]}
