"""The data of a run: what is read of which folder, what is said of it, what is refused."""

import json
import shutil

import numpy as np
import pytest
from yolo_factory import BOX, make_folder

from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.choose import open_split
from vision.datasets.layouts.layout import OpenOptions
from vision.datasets.sample import write_sample_dataset
from vision.training.data import DataSplit, check_classes, open_sources

CLASSES = ["circle", "square", "triangle", "star"]


def write_coco(root, *, boxes, names=("cat", "dog"), split="val", size=(50, 100)):
    """A COCO file: boxes is one list of (category id, bbox, more) an image; no image files."""
    annotations = [
        {"id": 10 * image + number, "image_id": image, "category_id": c, "bbox": b, **more}
        for image, items in enumerate(boxes, start=1)
        for number, (c, b, more) in enumerate(items)
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]}
            for i in range(1, len(boxes) + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 3 * i, "name": name} for i, name in enumerate(names, start=1)],
    }
    path = root / f"annotations/instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    (root / split).mkdir(exist_ok=True)
    return root


def box(category_id, *bbox, **more):
    return (category_id, list(bbox), more)


GOOD = box(3, 0, 0, 9, 9)


# ---- opening


def open_val(*roots) -> DataSplit:
    return DataSplit("val", [open_split(root, "val") for root in roots])


def test_splits_of_several_folders_in_order(tmp_path):
    for name, count in (("a", 2), ("b", 3)):
        for split in ("train", "val"):
            write_coco(tmp_path / name, boxes=[[GOOD] for _ in range(count)], split=split)
    data = open_sources([tmp_path / "b", tmp_path / "a"])
    assert [len(index) for index in data.val.indices] == [3, 2]
    assert [folder for _, folder in data.train.sources] == [
        tmp_path / "b/train",
        tmp_path / "a/train",
    ]
    assert (len(data.train), len(data.val)) == (5, 5)


def test_a_folder_without_val_is_passed_over_and_one_without_train_refused(tmp_path):
    for name, split in (("a", "train"), ("b", "train"), ("b", "val"), ("c", "val")):
        write_coco(tmp_path / name, boxes=[[GOOD]], split=split)
    assert len(open_sources([tmp_path / "a", tmp_path / "b"]).val) == 1
    assert open_sources([tmp_path / "a"]).val.sources == []
    with pytest.raises(
        ValueError, match=r"c: no annotations of split 'train'.*instances_val\.json"
    ):
        open_sources([tmp_path / "a", tmp_path / "c"])
    # Annotations without images are a mistake, not an absent split.
    (tmp_path / "b/val").rmdir()
    with pytest.raises(ValueError, match=r"b: no images of split 'val'"):
        open_sources([tmp_path / "b"])


def test_another_folder_for_validation_replaces_the_own_val(tmp_path):
    for name, count in (("a", 1), ("b", 2)):
        write_coco(tmp_path / name, boxes=[[GOOD] for _ in range(count)])
    write_coco(tmp_path / "a", boxes=[[GOOD]], split="train")
    assert len(open_sources([tmp_path / "a"], validation_dataset=tmp_path / "b").val) == 2
    with pytest.raises(ValueError, match=r"c: no such data set folder"):
        open_sources([tmp_path / "a"], validation_dataset=tmp_path / "c")


def test_yolo_folders_are_read_and_left_as_they_are(tmp_path):
    root = make_folder(tmp_path / "yolo", {"a.jpg": BOX, "b.jpg": None})
    make_folder(root, {"c.jpg": BOX, "d.jpg": None}, split="train")
    before = sorted(root.rglob("*"))
    data = open_sources([root])
    assert sorted(root.rglob("*")) == before
    (train, folder), (val, _) = data.train.sources[0], data.val.sources[0]
    assert len(train) == 1 and len(val) == 2  # train drops the image without labels
    assert (folder / train.file_name(0)).is_file()
    assert train.boxes_xywh.tolist() == [[25, 12.5, 50, 25]] and train.labels.tolist() == [1]
    assert [c.name for c in train.categories] == ["cat", "dog", "bird"]
    assert str(root) in train.annotation_file and "train" in train.annotation_file


def test_yolo_lists_of_the_command_line_replace_the_folders(tmp_path):
    root = make_folder(tmp_path / "yolo", {"a.jpg": BOX, "b.jpg": BOX}, split="train")
    (tmp_path / "mine.txt").write_text("images/b.jpg\n")
    data = open_sources([root], train_split=tmp_path / "mine.txt")
    assert data.train.indices[0].file_name(0).endswith("b.jpg") and not len(data.val)
    data = open_sources([root], validation_dataset=root, val_split=tmp_path / "mine.txt")
    assert (len(data.train), len(data.val)) == (2, 1)
    assert data.val_flags == [["--dataset", str(root), "--val-split", tmp_path / "mine.txt"]]


def test_each_val_split_is_named_by_flags_of_eval_ssd(tmp_path):
    """An option is for the folders whose layout knows it."""
    roots = [tmp_path / "coco", make_folder(tmp_path / "yolo", {"a.jpg": BOX})]
    make_folder(roots[1], {"b.jpg": BOX}, split="train")
    for split in ("train", "val"):
        write_coco(roots[0], boxes=[[GOOD]], split=split, names=["cat", "dog", "bird"])
    data = open_sources(roots, options=OpenOptions(boxes="xywh", label_format="box"))
    assert data.val_flags == [
        ["--dataset", str(roots[0]), "--boxes", "xywh"],
        ["--dataset", str(roots[1]), "--label-format", "box"],
    ]
    assert data.val_place == f"{roots[0]} and {roots[1]}"
    one = open_sources(roots[:1], layout="coco")
    assert one.val_flags == [["--dataset", str(roots[0]), "--dataset-type", "coco"]]


def test_bad_yolo_labels_are_counted_or_refused(tmp_path, caplog):
    root = make_folder(tmp_path / "yolo", {"a.jpg": f"{BOX}\n7 0.5 0.5 0.1 0.1\n"}, split="train")
    assert len(open_sources([root]).train.indices[0].labels) == 1
    assert f"{root}, split train: 1 x unknown class" in caplog.text
    with pytest.raises(ValueError, match=r"a\.txt:2"):
        open_sources([root], options=OpenOptions(strict_labels=True))


# ---- describing


def test_description_by_hand(tmp_path):
    boxes = [
        [box(3, 0, 0, 10, 10), box(6, 5, 5, 20, 20), box(3, 0, 0, 50, 50, iscrowd=1)],
        [],
        [box(3, 90, 40, 30, 30), box(3, 200, 0, 5, 5), box(3, 0, 0, 0, 5)],
    ]
    first, accepted, left_out, clipped, classes = open_val(
        write_coco(tmp_path, boxes=boxes)
    ).describe()
    assert first == "val: 3 images, 4 boxes, 1 images without, 1 crowds"
    assert accepted.endswith(
        "instances_val.json: 6 annotations without area, taken as width x height, 5 annotations "
        "without iscrowd, taken as 0; fix_coco_annotations.py writes them in"
    )
    assert "boxes left out: 2 no area inside the image" in left_out
    assert "1 boxes (25 %) reach outside their images" in clipped
    assert classes == "val: cat 3, dog 1"


def test_absent_classes_are_named(tmp_path):
    root = write_coco(tmp_path, boxes=[[box(3, 0, 0, 9, 9)]], names=["cat", "dog", "fox"])
    assert open_val(root).describe()[-1] == "val: no box of 2 of 3 classes: dog, fox"


# ---- comparing


def test_fingerprints_tell_data_sets_apart_and_know_moved_and_fixed_ones(tmp_path, run_script):
    write_sample_dataset(tmp_path / "a", num_train=2, num_val=4, image_size=(60, 80))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert run_script("fix_coco_annotations.py", "--path", tmp_path / "b").returncode == 0
    a, b = (open_val(tmp_path / name).fingerprint() for name in "ab")
    assert a == b and a["images"] == 4
    assert DataSplit("train", [open_split(tmp_path / "a", "train")]).fingerprint() != a

    path = tmp_path / "b/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    next(x for x in content["annotations"] if not x["iscrowd"])["bbox"][2] -= 1
    path.write_text(json.dumps(content))
    assert open_val(tmp_path / "b").fingerprint() != a
    assert open_val().fingerprint()["images"] == 0


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["circle", "square", "triangle"], "without ['star'], with none besides"),
        (["circle", "square", "triangle", "sun"], "without ['star'], with ['sun'] besides"),
        (["circle", "square", "star", "triangle"], "in another order"),
    ],
    ids=["fewer", "another", "order"],
)
def test_other_classes_are_refused_with_the_difference(tmp_path, names, said):
    expected = [{"name": name} for name in CLASSES]
    index = load_coco_index(
        write_coco(tmp_path, boxes=[[]], names=names) / "annotations/instances_val.json"
    )
    with pytest.raises(ValueError, match="--pretrained-ssd") as error:
        check_classes(expected, index.categories, where="--datasets")
    assert said in str(error.value) and "\n" not in str(error.value)
    check_classes([{"name": name} for name in names], index.categories, where="--datasets")


# ---- choosing


def test_images_with_boxes_over_several_sources(tmp_path):
    crowd, thin = box(3, 0, 0, 9, 9, iscrowd=1), box(3, 0, 0, 0.5, 9)
    write_coco(tmp_path / "a", boxes=[[], [GOOD], [crowd], [crowd, GOOD]])
    write_coco(tmp_path / "b", boxes=[[GOOD, GOOD], [thin], [], [GOOD]])
    split = open_val(tmp_path / "a", tmp_path / "b")
    assert split.images_with_boxes(10).tolist() == [1, 3, 4, 7]
    assert split.images_with_boxes(3).tolist() == [1, 3, 4]
    assert open_val(tmp_path / "a").images_with_boxes(1).dtype.kind == "i"
    none = open_val(write_coco(tmp_path / "c", boxes=[[], []]))
    assert none.images_with_boxes(4).tolist() == []
    assert isinstance(none.images_with_boxes(4), np.ndarray)
