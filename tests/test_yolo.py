"""YOLO folders as COCO dicts: ids, boxes, dropped images, and the set against itself."""

import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from yolo_factory import BOX, as_coco, make_folder, write_image

from vision.datasets.findings import Findings
from vision.datasets.yolo import read_yolo


def test_a_box_by_hand(tmp_path):
    splits = read_yolo(make_folder(tmp_path, {"a.png": "2 0.5 0.4 0.2 0.4\n"}))
    coco = as_coco(splits["val"])
    assert coco["images"] == [{"id": 1, "file_name": "a.png", "height": 50, "width": 100}]
    assert coco["categories"] == [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "dog"},
        {"id": 3, "name": "bird"},
    ]
    (annotation,) = coco["annotations"]
    assert annotation.pop("bbox") == pytest.approx([40, 10, 20, 20])
    assert annotation.pop("area") == pytest.approx(400)
    assert annotation == {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0}
    assert splits["val"].image_folder == tmp_path / "images"


def test_train_drops_images_without_a_valid_row_and_val_keeps_them(tmp_path):
    labels = {"a.png": "", "b.png": BOX, "c.png": "9 0.5 0.5 0.5 0.5", "d.png": None, "e.png": BOX}
    for split in ("train", "val"):
        make_folder(tmp_path, labels, split=split)
    splits = read_yolo(tmp_path)
    train, val = as_coco(splits["train"]), as_coco(splits["val"])
    assert [(image["id"], image["file_name"]) for image in train["images"]] == [
        (1, "b.png"),
        (2, "e.png"),
    ]
    assert [(a["id"], a["image_id"]) for a in train["annotations"]] == [(1, 1), (2, 2)]
    assert [image["id"] for image in val["images"]] == [1, 2, 3, 4, 5]
    assert [(a["id"], a["image_id"]) for a in val["annotations"]] == [(1, 2), (2, 5)]
    assert splits["train"].num_listed == 5 and splits["val"].num_without_label_file == 1


def test_a_train_split_without_any_label_is_an_error(tmp_path):
    root = make_folder(tmp_path, {"a.png": "", "b.png": None}, split="train")
    with pytest.raises(ValueError, match=r"no image of the train split.*labels/a\.txt"):
        read_yolo(root)


def test_names_with_spaces_dots_capitals_and_accents(tmp_path):
    names = ["A B.JPG", "c.d.e.jpeg", "\u00fc\u6f22.Png", "f.rf.0.webp", "g.BMP"]
    coco = as_coco(read_yolo(make_folder(tmp_path, dict.fromkeys(names, BOX)))["val"])
    assert [image["file_name"] for image in coco["images"]] == names
    assert len(coco["annotations"]) == 5


def test_images_with_one_label_file_are_an_error(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX, "a.jpg": BOX})
    with pytest.raises(ValueError, match=r"a\.jpg.*same label file.*a\.png"):
        read_yolo(root)


def test_sizes_are_those_of_the_upright_image(tmp_path):
    root = make_folder(tmp_path, {"a.jpg": "0 0.5 0.5 1 0.5"})
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(root / "images" / "a.jpg", exif=exif)
    coco = as_coco(read_yolo(root)["val"])
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (50, 100)
    assert coco["annotations"][0]["bbox"] == pytest.approx([0, 25, 50, 50])


def test_an_unreadable_image_is_named(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "images" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png: .*empty"):
        read_yolo(root)


def evaluate_against_itself(coco: dict) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        results = [
            {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0}
            for a in coco["annotations"]
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1, 2) | st.floats(0, 1)
rows = st.lists(st.tuples(st.integers(-1, 4), numbers, numbers, numbers, numbers), max_size=20)
sizes = st.sampled_from([(1, 1), (7, 3), (100, 50), (640, 480)])


@settings(max_examples=60)
@given(st.lists(st.tuples(sizes, rows), min_size=1, max_size=4))
def test_any_rows_give_a_set_that_is_perfect_against_itself(images):
    labels = {
        f"{index}.png": "\n".join(" ".join(map(repr, row)) for row in table)
        for index, (_, table) in enumerate(images)
    }
    with tempfile.TemporaryDirectory() as folder:
        root = make_folder(Path(folder), labels)
        for index, ((width, height), _) in enumerate(images):
            write_image(root / "images" / f"{index}.png", width=width, height=height)
        write_image(root / "images" / "good.png")
        (root / "labels" / "good.txt").write_text(BOX)  # a split with no box at all is an error
        with open(root / "splits" / "val.txt", "a") as split:
            split.write("images/good.png\n")
        images = [*images, ((100, 50), None)]
        coco = as_coco(read_yolo(root, findings=Findings(num_shown=0))["val"])
    for annotation in coco["annotations"]:
        x, y, box_width, box_height = annotation["bbox"]
        width, height = images[annotation["image_id"] - 1][0]
        assert x >= 0 and y >= 0 and box_width > 0 and box_height > 0
        assert x + box_width <= width + 1e-9 and y + box_height <= height + 1e-9
        assert annotation["category_id"] in (1, 2, 3)
    assert evaluate_against_itself(coco) == pytest.approx(1.0)


def test_the_blood_cells(shared):
    splits = read_yolo(shared / "data" / "finetune_dataset", strict_labels=True)
    assert {split: len(as_coco(data)["images"]) for split, data in splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    for data in splits.values():
        names = [category["name"] for category in as_coco(data)["categories"]]
        assert names == ["WBC", "RBC", "Platelets"]
        assert json.loads(json.dumps(as_coco(data))) == as_coco(data)
        assert evaluate_against_itself(as_coco(data)) == pytest.approx(1.0)
    # 4,888 rows, two of which have no area
    assert sum(len(as_coco(data)["annotations"]) for data in splits.values()) == 4886
