"""Which layout a folder has: recognised, said in one line, and what is said where none fits."""

import json

import numpy as np
import pytest
from yolo_factory import BOX, as_coco, make_folder, write_image

from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.choose import open_folder, open_split
from vision.datasets.layouts.layout import OpenOptions
from vision.datasets.yolo import read_yolo


def make_yolo(root, split="val"):
    return make_folder(root, {"a.jpg": f"{BOX}\n2 0.4 0.4 0.9 0.3", "b.jpg": None}, split=split)


def make_coco(root, split="val"):
    """The annotations that convert_yolo_to_coco.py writes, beside images."""
    folder = root / split
    write_image(folder / "c.jpg")
    content = {
        "images": [{"id": 7, "file_name": "c.jpg", "width": 100, "height": 50}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def log_lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "INFO"]


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level("INFO")


@pytest.mark.parametrize(
    ("make", "name", "title", "reason"),
    [
        (make_coco, "", "COCO", "annotations/instances_val.json"),
        (make_yolo, "", "YOLO", "classes.txt, splits/val.txt"),
    ],
    ids=["coco", "yolo"],
)
def test_a_folder_is_recognised_and_said_in_one_line(tmp_path, caplog, make, name, title, reason):
    source = open_split(make(tmp_path), "val")
    assert source.index.boxes_xywh.shape[1] == 4 and len(source.index.labels) > 0
    assert (source.image_folder / source.index.file_name(0)).is_file()
    assert log_lines(caplog) == [f"{tmp_path}: {title} layout ({reason})"]


def test_a_data_yaml_stands_for_its_folder(tmp_path, caplog):
    root = make_yolo(tmp_path)
    (root / "my.yaml").write_text("names: [cat, dog, bird]\n")
    assert len(open_split(root / "my.yaml", "val").index) == 2
    assert log_lines(caplog) == [f"{root}/my.yaml: YOLO layout (my.yaml)"]


def test_both_layouts_in_one_folder(tmp_path, caplog):
    """COCO where it has annotations of the split that is wanted, and the other is named."""
    root = make_coco(make_yolo(tmp_path))
    assert open_split(root, "val").index.image_ids.tolist() == [7]
    assert log_lines(caplog) == [
        f"{root}: COCO layout (annotations/instances_val.json); --dataset-type yolo reads its "
        "YOLO layout (classes.txt, splits/val.txt)"
    ]
    assert len(open_split(root, "val", layout="yolo").index) == 2
    make_yolo(root, split="train")
    assert open_split(root, "train").index.annotation_file == f"split train of {root}"


def test_what_the_user_says_is_not_said_back(tmp_path, caplog):
    open_split(make_coco(tmp_path), "val", layout="coco")
    assert log_lines(caplog) == []


def test_label_flags_want_yolo_labels(tmp_path):
    options = OpenOptions(strict_labels=True)
    root = make_coco(make_yolo(tmp_path / "both"))
    assert len(open_split(root, "val", options=options).index) == 2
    root = make_coco(tmp_path / "coco")
    with pytest.raises(ValueError, match=r"COCO layout: --strict-labels has no meaning there"):
        open_split(root, "val", options=options)
    with pytest.raises(ValueError, match=r"--strict-labels has no meaning"):
        open_split(root, "val", layout="coco", options=options)


def test_a_split_that_is_absent(tmp_path):
    with pytest.raises(ValueError, match=r"no annotations of split 'test'.*has instances_val.json"):
        open_split(make_coco(tmp_path / "coco"), "test")
    with pytest.raises(ValueError, match=r"no test split .*\(val\); .*splits/test.txt"):
        open_split(make_yolo(tmp_path / "yolo"), "test")
    for name, expected in (("coco", ["val"]), ("yolo", ["val"])):
        assert open_folder(tmp_path / name, split="val").splits == expected


def test_splits_of_a_coco_folder_by_other_names(tmp_path):
    for name in ("train2014", "valid", "small"):
        make_coco(tmp_path, split=name)
    (tmp_path / "annotations/instances_valid.original.json").write_text("{}")
    assert open_folder(tmp_path, split="train").splits == ["train", "val", "small"]
    for split in ("train", "val", "small"):
        source = open_split(tmp_path, split)
        assert (source.image_folder / source.index.file_name(0)).is_file()


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "it holds nothing"),
        (["a.jpg", "b.jpg", "notes.txt", "more/x.jpg"], "it holds more/, notes.txt, 2 x .jpg"),
        (["export.coco.json", "images/a.jpg"], "copy it to annotations/instances_train.json"),
        (["annotations/person.json"], "if annotations/person.json has COCO annotations"),
        (["VOC2007/ImageSets/Main/train.txt"], "VOC2007 is of Pascal VOC's layout; give that"),
        ([f"{letter}/x" for letter in "abcdefghijklm"], "i/, j/ and 3 more"),
    ],
    ids=["empty", "images", "another file", "other name", "voc", "many"],
)
def test_where_none_fits_it_says_what_lies_there_and_the_nearest(tmp_path, files, said):
    touch(tmp_path, *files)
    with pytest.raises(ValueError) as error:
        open_split(tmp_path, "train")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: no data set of a known layout (COCO: ")


def test_a_file_and_nothing(tmp_path):
    root = make_coco(tmp_path)
    with pytest.raises(ValueError, match="a file; give the folder that holds"):
        open_split(root / "annotations/instances_val.json", "val")
    with pytest.raises(ValueError, match="nowhere: no such data set folder"):
        open_split(root / "nowhere", "val")


def assert_same_as_conversion(root, tmp_path):
    """The index of each split equals, in every array, that of the file the converter writes."""
    for split, content in read_yolo(root).items():
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps(as_coco(content)))
        direct = vars(open_split(root, split, layout="yolo").index)
        converted = vars(load_coco_index(path))
        assert direct.pop("annotation_file") != converted.pop("annotation_file")
        for name, expected in converted.items():
            np.testing.assert_equal(direct[name], expected, err_msg=name)
            if isinstance(expected, np.ndarray):
                assert direct[name].dtype == expected.dtype, name


def test_yolo_labels_give_the_index_of_their_conversion(tmp_path):
    labels = {
        "a.jpg": f"{BOX}\n2 0.4 0.4 0.9 0.3\n9 0.5 0.5 0.1 0.1\n",
        "b.jpg": None,
        "c.jpg": "1 0.5 0.5 0.001 0.5\n0 1.2 0.5 0.1 0.1\n2 0.1 0.2 0.3 0.2 0.3 0.6\n",
        "d.jpg": "0 0.333333 0.666667 0.123457 0.1\n0 nan 0.5 0.1 0.1\n",
    }
    for split in ("train", "val"):
        root = make_folder(tmp_path / "set", labels, split=split)
    (root / "data.yaml").write_text("names: {2: bird, 0: cat, 5: dog}\n")
    (root / "classes.txt").unlink()
    assert_same_as_conversion(root, tmp_path)


def test_the_blood_cells_give_the_index_of_their_conversion(tmp_path, shared):
    assert_same_as_conversion(shared / "data/finetune_dataset", tmp_path)
