"""COCO files and folders as other tools write them: found, told apart, or named."""

import json

import pytest
from test_data import GOOD, box, write_coco
from test_layouts import make_coco
from yolo_factory import write_image

from vision.datasets.coco_index import load_coco_index
from vision.datasets.image_names import ImageFinder
from vision.datasets.layouts.choose import open_folder, open_split
from vision.datasets.layouts.layout import OpenOptions
from vision.training.data import open_sources

ONE = {
    "images": [{"id": 7, "file_name": "c.jpg", "width": 100, "height": 50}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 20]}],
    "categories": [{"id": 1, "name": "cat"}],
}


def write(root, place, content=ONE, images=()):
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(json.dumps(content))
    for name in images:
        write_image(root / name)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"train/_annotations.coco.json": "train/c.jpg", "valid/_annotations.coco.json":
          "valid/c.jpg", "test/_annotations.coco.json": "test/c.jpg"}, ["train", "val", "test"]),
        ({"_annotations.coco.json": "c.jpg"}, ["train", "val"]),
        ({"annotations/instances_default.json": "images/default/c.jpg"}, ["train", "val"]),
        ({"annotations/instances_default.json": "images/c.jpg"}, ["train", "val"]),
        ({"annotations/instances_Train.json": "images/Train/c.jpg",
          "annotations/instances_Validation.json": "images/Validation/c.jpg"}, ["train", "val"]),
        ({"result.json": "images/c.jpg"}, ["train", "val"]),
        ({"annotations/train.json": "train/c.jpg", "annotations/val.json": "val/c.jpg"},
         ["train", "val"]),
        ({"annotations/instances_train2014.json": "train2014/c.jpg"}, ["train"]),
    ],
    ids=["roboflow", "roboflow, one file", "cvat", "cvat, images/", "cvat subsets",
         "label studio", "plain names", "2014"],
)  # fmt: skip
def test_folders_of_other_tools(tmp_path, files, splits):
    for place, image in files.items():
        write(tmp_path, place, images=[image])
    folder = open_folder(tmp_path, split="train")
    assert folder.splits == splits
    for split in splits:
        source = folder.open(split)
        assert (source.image_folder / source.index.file_name(0)).is_file()


def test_one_file_for_everything_is_said_to_be_both(tmp_path, caplog):
    write(tmp_path, "annotations/instances_default.json", images=["images/c.jpg"])
    open_sources([tmp_path])
    assert "1 images are in train and in val both" in caplog.text


NAMES = {
    "a.jpg": "a.jpg",
    "images\\a.jpg": "a.jpg",
    "C:\\data\\images\\sub\\b.jpg": "sub/b.jpg",
    "/home/x/set/images/a.jpg": "a.jpg",
    "../../label-studio/upload/1/b.jpg": "sub/b.jpg",
    "my%20photo.jpg": "my photo.jpg",
    "A.JPG": "a.jpg",
    "ka\u0308fer.jpg": "k\u00e4fer.jpg",
    "twice.jpg": "twice.jpg",
    "elsewhere/twice.jpg": "twice.jpg",
    "sub/twice.jpg": "sub/twice.jpg",
    "nowhere.jpg": None,
    "../secret.jpg": None,
    "/etc/passwd": None,
    "": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_images(tmp_path, name):
    root = tmp_path / "images"
    for place in ("a.jpg", "sub/b.jpg", "my photo.jpg", "k\u00e4fer.jpg", "twice.jpg",
                  "sub/twice.jpg"):  # fmt: skip
        write_image(root / place)
    write_image(tmp_path / "secret.jpg")
    assert ImageFinder(root).find(name) == NAMES[name]


def test_a_base_name_that_two_folders_have_is_not_guessed(tmp_path):
    for folder in ("x", "y"):
        write_image(tmp_path / folder / "a.jpg")
    assert ImageFinder(tmp_path).find("z/a.jpg") is None
    assert ImageFinder(tmp_path).find("X/A.jpg") == "x/a.jpg"


def test_names_that_were_found_are_counted_and_written(tmp_path, run_script):
    content = {**ONE, "images": [{**ONE["images"][0], "file_name": "images\\c.jpg"}]}
    write(tmp_path, "annotations/instances_train.json", content, images=["images/c.jpg"])
    data = open_sources([tmp_path])
    assert any("1 images found under another spelling" in line for line in data.train.describe())
    done = run_script("fix_coco_annotations.py", "--path", tmp_path)
    assert done.returncode == 0 and "spelled in another way" in done.stdout
    fixed = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert fixed["images"][0]["file_name"] == "c.jpg"


CENTRES = [[20, 25, 35, 30], [80, 30, 38, 38], [70, 25, 60, 50], [50, 40, 90, 18]]
CORNERS = [[10, 5, 40, 25], [60, 30, 90, 45], [50, 20, 95, 48], [30, 10, 80, 40]]


@pytest.mark.parametrize(
    ("form", "boxes", "expected"),
    [
        ("xyxy", CORNERS, [10, 5, 30, 20]),
        ("cxcywh", CENTRES * 5, [2.5, 10, 35, 30]),
        ("cxcywh-fractions", [[0.2, 0.5, 0.35, 0.6], [0.8, 0.6, 0.4, 0.8]] * 2, [2.5, 10, 35, 30]),
        ("xywh-fractions", [[0.1, 0.2, 0.4, 0.5]] * 4, [10, 10, 40, 25]),
        ("xyxy-fractions", [[0.6, 0.2, 0.9, 0.7]] * 4, [60, 10, 30, 25]),
    ],
)
def test_boxes_of_another_form_are_refused_with_the_flag_that_reads_them(
    tmp_path, form, boxes, expected
):
    root = write_coco(tmp_path, boxes=[[box(3, *numbers)] for numbers in boxes])
    with pytest.raises(ValueError, match=f"look like {form} .*--boxes {form}, or"):
        open_split(root, "val")
    index = open_split(root, "val", options=OpenOptions(boxes=form)).index
    assert index.boxes_xywh[0].tolist() == pytest.approx(expected)
    assert open_split(root, "val", options=OpenOptions(boxes="xywh")).index is not None


def test_a_few_boxes_outside_are_counted_and_read(tmp_path):
    boxes = [[GOOD]] * 20 + [[box(3, 90, 40, 30, 30)]]
    lines = open_split(write_coco(tmp_path, boxes=boxes), "val").index.clipped_ids.tolist()
    assert lines == [21]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"id": 1, "image_id": 7, "segments_info": []}]}, "panoptic segments"),
        ({"annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}]}, "holds captions"),
        ({"annotations": [{"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
         r"annotations\[0\] has unknown image 8"),
    ],
    ids=["panoptic", "captions", "no id"],
)  # fmt: skip
def test_files_of_other_kinds_are_named(tmp_path, changes, message):
    write(tmp_path, "a.json", {**ONE, **changes})
    with pytest.raises(ValueError, match=message):
        load_coco_index(tmp_path / "a.json")


def test_an_image_that_is_listed_twice_is_said(tmp_path):
    images = [ONE["images"][0], {**ONE["images"][0], "id": 8}]
    write(tmp_path, "annotations/instances_train.json", {**ONE, "images": images},
          images=["images/c.jpg"])  # fmt: skip
    lines = open_sources([tmp_path]).train.describe()
    assert any("1 images are listed twice" in line and "c.jpg" in line for line in lines)


def test_crowds_alone_teach_nothing(tmp_path):
    root = write_coco(tmp_path, boxes=[[box(3, 0, 0, 9, 9, iscrowd=1)]], split="train")
    with pytest.raises(ValueError, match="no box to train on, crowds aside"):
        open_sources([root])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([1, 2], ["1", "2"]),
        ([None, "dog"], ["class 5", "dog"]),
        (["", " dog "], ["class 5", "dog"]),
        (["cat\nsiamese", "a  b"], ["cat siamese", "a b"]),
        (["cat", "cat "], ["cat (id 5)", "cat (id 9)"]),
    ],
    ids=["numbers", "null", "empty", "breaks", "twice"],
)
def test_names_can_be_told_apart_and_written_one_a_line(tmp_path, given, names):
    categories = [{"id": i, "name": name} for i, name in zip((5, 9), given, strict=True)]
    write(tmp_path, "a.json", {**ONE, "categories": categories, "annotations": []})
    assert [c.name for c in load_coco_index(tmp_path / "a.json").categories] == names


def test_three_classes_of_one_name_are_three(tmp_path):
    """One has the ending that others would get; and ids from before a repair may be edited."""
    ends = ["cat", "cat", "cat (id 5)"]
    categories = [{"id": i, "name": name} for i, name in zip((5, 9, 11), ends, strict=True)]
    write(tmp_path, "a.json", {**ONE, "categories": categories, "annotations": []})
    names = [c.name for c in load_coco_index(tmp_path / "a.json").categories]
    assert names == ["cat (id 5) (id 5)", "cat (id 9)", "cat (id 5) (id 11)"]
    categories = [{"id": i, "name": "cat", "original_id": 7} for i in (0, 1)]
    write(tmp_path, "b.json", {**ONE, "categories": categories, "annotations": []})
    names = [c.name for c in load_coco_index(tmp_path / "b.json").categories]
    assert names == ["cat (id 0)", "cat (id 1)"]


def test_a_link_to_nothing_is_a_missing_image(tmp_path):
    root = make_coco(tmp_path, split="train")
    (root / "train/c.jpg").unlink()
    (root / "train/c.jpg").symlink_to(tmp_path / "gone.jpg")
    from vision.datasets.coco import check_image_files

    source = open_split(root, "train")
    with pytest.raises(ValueError, match=r"1 of the 1 images .* are missing: c\.jpg"):
        check_image_files(*source)
