"""Detections as labels to correct: each format is read back by its own reader."""

import json

import numpy as np
import pytest
from script_runs import call
from test_data import box, write_coco
from yolo_factory import write_image

from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.choose import open_split
from vision.datasets.prelabel import order_by_doubt, read_detections
from vision.datasets.voc_xml import read_voc_xml

RESULTS = [
    {"image_id": 1, "category_id": 6, "bbox": [10, 5, 40, 20], "score": 0.9},
    {"image_id": 1, "category_id": 3, "bbox": [0, 0, 100, 50], "score": 0.2},
    {"image_id": 3, "category_id": 3, "bbox": [20.5, 10, 30, 30], "score": 0.55},
]


@pytest.fixture
def root(tmp_path):
    root = write_coco(tmp_path / "data", boxes=[[box(3, 1, 1, 9, 9)], [], []], split="test")
    for number in (1, 2, 3):
        write_image(root / "test" / f"{number}.jpg")
    (tmp_path / "detections.json").write_text(json.dumps(RESULTS))
    return root


def convert(root, kind, output):
    return call(
        "detections_to_labels", "--detections", root.parent / "detections.json", "--dataset", root,
        "--format", kind, "--output", output,
    )  # fmt: skip


def test_the_least_certain_comes_first(root, tmp_path):
    index = open_split(root, "test").index
    found = read_detections(tmp_path / "detections.json", index)
    assert order_by_doubt(found, 3) == [2, 0, 1]
    assert found.at_least(0.5).rows.tolist() == [0, 2]


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_labels_read_back(root, tmp_path, kind):
    out = tmp_path / "out"
    done = convert(root, kind, out)
    assert done.code == 0 and "2 boxes of 3 images" in done.out, done.err
    assert (out / "order.txt").read_text().split() == ["3.jpg", "1.jpg", "2.jpg"]
    if kind == "coco":
        index = load_coco_index(out / "instances.json")
        boxes, labels = index.boxes_xywh, index.labels
    elif kind == "yolo":
        (out / "splits").mkdir()
        (out / "splits/test.txt").write_text("".join(f"{root}/test/{i}.jpg\n" for i in (1, 2, 3)))
        index = open_split(out, "test").index
        boxes, labels = index.boxes_xywh, index.labels
    else:
        files = [read_voc_xml(out / f"Annotations/{i}.xml") for i in (1, 2, 3)]
        assert [file.size for file in files] == [(50, 100)] * 3
        items = [item for file in files for item in file.objects]
        boxes = np.array([item.box for item in items])
        boxes[:, 2:] -= boxes[:, :2]
        labels = np.array([["cat", "dog"].index(item.name) + 1 for item in items])
    np.testing.assert_allclose(boxes, [[10, 5, 40, 20], [20.5, 10, 30, 30]], atol=1e-3)
    assert labels.tolist() == [2, 1]
    again = convert(root, kind, out)
    assert again.code == 1 and "is not empty" in again.err


def test_detections_of_another_set_are_refused(root, tmp_path):
    (tmp_path / "detections.json").write_text(json.dumps([{**RESULTS[0], "image_id": 9}]))
    done = convert(root, "yolo", tmp_path / "out")
    assert done.code == 1 and "entry 0 is of image 9" in done.err
    for content, words in (
        ("{}", "not a list of COCO results"),
        (
            json.dumps([{**RESULTS[0], "bbox": [1e308, 0, 1e308, 5]}]),
            "entry 0 has a box or",
        ),
        ("version https://git-lfs.github.com/spec/v1\n", "detections.json: a Git LFS pointer"),
    ):
        (tmp_path / "detections.json").write_text(content)
        done = convert(root, "yolo", tmp_path / "out")
        assert done.code == 1 and words in done.err


def test_names_with_control_characters_make_whole_files(root, tmp_path):
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace('"dog"', '"d\\u001b[2Jog<\\u0001>"'))
    assert convert(root, "voc", tmp_path / "voc").code == 0
    named = list(read_voc_xml(tmp_path / "voc/Annotations/3.xml").objects) + list(
        read_voc_xml(tmp_path / "voc/Annotations/1.xml").objects
    )
    assert "d\\x1b[2Jog<\\x01>" in {item.name for item in named}
    assert "d\\x1b[2Jog<\\x01>\n" in (tmp_path / "voc/labels.txt").read_text()
    assert convert(root, "yolo", tmp_path / "yolo").code == 0
    assert "d\\x1b[2Jog<\\x01>\n" in (tmp_path / "yolo/classes.txt").read_text()
