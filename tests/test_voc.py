"""Pascal VOC folders, as the devkit and annotation tools write them."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runs import FAST, call, tree
from voc_factory import CAT, DOG, make_voc, voc_object, voc_xml
from yolo_factory import write_image

from vision.datasets.layouts.choose import open_folder, open_split
from vision.datasets.layouts.layout import OpenOptions
from vision.datasets.voc_xml import read_voc_xml
from vision.training.data import open_sources

TWO = {"a": voc_xml(CAT, DOG), "b": voc_xml(DOG)}


def names_of(index) -> list[str]:
    return [index.file_name(row) for row in range(len(index))]


def test_boxes_by_hand(tmp_path):
    """Fractions stay, images without objects are negatives, classes are sorted by name."""
    root = make_voc(tmp_path, {**TWO, "c": voc_xml()}, {"trainval": "a\nc\n", "test": "b\n"})
    index, folder = open_split(root, "train")
    assert folder == root / "JPEGImages" and names_of(index) == ["a.jpg", "c.jpg"]
    assert [category.name for category in index.categories] == ["cat", "dog"]
    assert index.boxes_xywh.tolist() == [[10, 5, 30.5, 20.25], [50, 10, 40, 35]]
    assert index.labels.tolist() == [1, 2] and index.num_empty_images() == 1
    assert names_of(open_split(root, "val").index) == ["b.jpg"]


def test_pixels_counted_from_one(tmp_path):
    root = make_voc(tmp_path, TWO, {"train": "a\n"})
    index = open_split(root, "train", options=OpenOptions(one_based=True)).index
    assert index.boxes_xywh[0].tolist() == [9, 4, 30.5, 20.25]


def test_difficult_objects_are_ignored_or_trained_on(tmp_path):
    hard = voc_object("dog", 50, 10, 90, 45, difficult=1)
    root = make_voc(tmp_path, {"a": voc_xml(CAT, hard)}, {"trainval": "a\n", "test": "a\n"})
    for split, use, ignored in (("train", False, 1), ("train", True, 0), ("val", True, 1)):
        index = open_split(root, split, options=OpenOptions(use_difficult=use)).index
        assert index.iscrowd.sum() == ignored, (split, use)


@pytest.mark.parametrize(
    ("lists", "train", "val"),
    [
        ({"trainval": "ab", "train": "a", "val": "b", "test": "c"}, "ab", "c"),
        ({"trainval": "abc", "val": "c"}, "abc", "c"),
        ({"train": "a", "val": "b"}, "a", "b"),
        ({"default": "abc"}, "abc", "abc"),
        ({"default": "abc", "train": "b"}, "b", None),
        ({"trainval": "abc", "test": ""}, "abc", None),
        ({"train": "a", "validation": "c"}, "a", "c"),
    ],
    ids=["devkit", "val in trainval", "no test", "default", "default and others", "empty", "named"],
)
def test_which_list_a_split_is_read_from(tmp_path, lists, train, val):
    images = {name: voc_xml(CAT) for name in "abc"}
    lists = {name: "".join(f"{n}\n" for n in names) for name, names in lists.items()}
    folder = open_folder(make_voc(tmp_path, images, lists), split="train")
    assert names_of(folder.open("train").index) == [f"{name}.jpg" for name in train]
    assert ("val" in folder.splits) == (val is not None)
    if val:
        assert names_of(folder.open("val").index) == [f"{name}.jpg" for name in val]


def test_lists_with_marks_suffixes_and_repetitions(tmp_path):
    root = make_voc(tmp_path, TWO, {"train": "a  1\nJPEGImages/b.jpg\n\na -1\n"})
    write_image(root / "JPEGImages/c d.jpg")
    (root / "Annotations/c d.xml").write_text(voc_xml(CAT))
    (root / "ImageSets/Main/val.txt").write_text("c d\n")
    assert names_of(open_split(root, "train").index) == ["a.jpg", "b.jpg"]
    assert names_of(open_split(root, "val").index) == ["c d.jpg"]


def test_val_images_that_are_trained_on_are_said(tmp_path, caplog):
    root = make_voc(tmp_path, TWO, {"trainval": "a\nb\n", "val": "b\n"})
    open_sources([root])
    assert "1 images are in train and in val both" in caplog.text and "b.jpg" in caplog.text


def test_folders_with_images_and_xml_side_by_side(tmp_path):
    """As Roboflow writes them."""
    for split, name in (("train", "a"), ("valid", "b")):
        write_image(tmp_path / split / f"{name}.png")
        (tmp_path / split / f"{name}.xml").write_text(voc_xml(CAT))
    assert open_folder(tmp_path, split="train").splits == ["train", "val"]
    assert names_of(open_split(tmp_path, "val").index) == ["b.png"]


def test_a_folder_without_lists_is_the_train_split(tmp_path, caplog):
    root = make_voc(tmp_path, TWO)
    assert len(open_sources([root]).train) == 2
    assert "no val split; it has train" in caplog.text


def test_labels_txt_says_which_classes_count(tmp_path, caplog):
    root = make_voc(tmp_path, TWO, {"train": "a\n"})
    (root / "labels.txt").write_text("BACKGROUND\ndog,fox\n")
    index = open_split(root, "train").index
    assert [category.name for category in index.categories] == ["dog", "fox"]
    assert index.labels.tolist() == [1]
    assert "1 x unknown class" in caplog.text


def test_sizes_come_from_the_image_where_the_file_has_none(tmp_path):
    text = voc_xml(CAT, size="<width>0</width><height>0</height>")
    root = make_voc(tmp_path, {"a": text}, {"train": "a\n"})
    assert open_split(root, "train").index.sizes.tolist() == [[50, 100]]


def test_fractions_are_refused(tmp_path):
    boxes = voc_xml(voc_object("cat", 0.1, 0.2, 0.5, 0.9))
    root = make_voc(tmp_path, {"a": boxes}, {"train": "a\n"})
    with pytest.raises(ValueError, match=r"train\.txt .* all 1 boxes .* fractions of the image"):
        open_split(root, "train")


def test_an_image_by_the_name_in_the_file(tmp_path):
    root = make_voc(tmp_path, {"a": voc_xml(CAT, file="photo 1.png")}, {"train": "a\n"})
    shutil.move(root / "JPEGImages/a.jpg", root / "JPEGImages/photo 1.png")
    assert names_of(open_split(root, "train").index) == ["photo 1.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid XML"),
        ("<annotation>", "not valid XML"),
        ("<kml></kml>", "its top is <kml>"),
        (voc_xml("<object><name> </name></object>"), "object 1 has no name"),
        (voc_xml("<object><name>cat</name></object>"), r"object 1 \(cat\) has no <bndbox>"),
        (voc_xml("<object><name>cat</name><polygon/></object>"), "but polygon; export boxes"),
        (voc_xml(CAT, voc_object("dog", 1, 2, "x", 4)), r"object 2 \(dog\): xmin, ymin"),
        (voc_xml(CAT, voc_object("dog", 1, 2, "inf", 4)), r"object 2 \(dog\): xmin, ymin"),
        (voc_xml(CAT, size="<width>90</width><height>50</height>"), "is 100x50 .* for 90x50"),
    ],
    ids=["empty", "cut", "kml", "no name", "no box", "polygon", "text", "infinite", "size"],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    root = make_voc(tmp_path, {"a": text, "b": voc_xml(CAT)}, {"train": "a\nb\n"})
    before = tree(root)
    with pytest.raises(ValueError, match=message) as error:
        open_split(root, "train", layout="voc")
    assert "/a." in str(error.value) and "\n" not in str(error.value)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("lists", "remove", "message"),
    [
        ({"train": "a\nx\n"}, [], r"x\.xml: not there, though its image is listed"),
        ({"train": "a\nb\n"}, ["JPEGImages/b.jpg"], "1 of the 2 images .* missing: b"),
        ({"train": "\n"}, [], "lists are empty"),
        ({"train": "a\n../b\n"}, [], r"lead out of the folder, the first is '../b'"),
    ],
    ids=["no xml", "no image", "empty", "outside"],
)
def test_what_is_listed_and_not_there_is_named(tmp_path, lists, remove, message):
    root = make_voc(tmp_path, TWO, lists)
    for name in remove:
        (root / name).unlink()
    with pytest.raises(ValueError, match=message):
        open_split(root, "train", layout="voc")


def test_encodings(tmp_path):
    text = voc_xml(CAT.replace("cat", "Käfer"))
    for number, content in enumerate(
        [
            text.encode(),
            b"\xef\xbb\xbf" + text.encode(),
            ('<?xml version="1.0" encoding="utf-16"?>' + text).encode("utf-16"),
            ('<?xml version="1.0" encoding="latin-1"?>' + text).encode("latin-1"),
            text.encode("latin-1"),
        ]
    ):
        path = tmp_path / f"{number}.xml"
        path.write_bytes(content)
        assert read_voc_xml(path).objects[0].name == "Käfer", number


def test_entities_do_not_expand_without_end(tmp_path):
    lines = ['<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">']
    lines += [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)]
    (tmp_path / "a.xml").write_text("".join(lines) + "]><annotation>&a11;</annotation>")
    with pytest.raises(ValueError, match=r"a\.xml: not valid XML"):
        read_voc_xml(tmp_path / "a.xml")


@settings(max_examples=60)
@given(data=st.data())
def test_any_damage_is_read_or_named(tmp_path, data):
    text = voc_xml(CAT, DOG).encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    (tmp_path / "a.xml").write_bytes(text[:start] + data.draw(st.binary(max_size=8)) + text[end:])
    try:
        boxes = np.array([item.box for item in read_voc_xml(tmp_path / "a.xml").objects])
        assert np.isfinite(boxes).all()
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path}/a.xml: ")


def test_a_nested_folder_is_named(tmp_path):
    make_voc(tmp_path / "VOCdevkit/VOC2007", TWO, {"train": "a\n"})
    with pytest.raises(ValueError, match=r"VOC2007 is of Pascal VOC's layout; give that folder"):
        open_split(tmp_path, "train")


def test_it_trains_and_evaluates(tmp_path):
    root = make_voc(
        tmp_path / "voc", {n: TWO["a"] for n in "abcd"}, {"train": "a\nb\nc\n", "val": "d\n"}
    )
    run = tmp_path / "run"
    done = call("train_ssd", "--datasets", root, *FAST, "--checkpoint-folder", run)
    assert done.code == 0, done.err
    assert "Pascal VOC layout (Annotations/*.xml, ImageSets/Main/train.txt)" in done.err
    done = call("eval_ssd", "--trained-model", run, "--dataset", root, "--workers=0", "--one-based")
    assert done.code == 0 and "cat" in done.out


def test_the_runway_objects(shared):
    folder = open_folder(shared / "data/foda-mini", split="train")
    train, val = folder.open("train").index, folder.open("val").index
    assert (len(train), len(train.labels)) == (1234, 1265)
    assert (len(val), len(val.labels), len(val.categories)) == (372, 380, 31)
