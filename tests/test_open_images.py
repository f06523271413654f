"""Open Images: the family's and the official CSVs, and the downloader against a real server."""

import csv
import re

import cv2
import numpy as np
import pytest
from fault_server import FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runs import FAST, call
from yolo_factory import write_image

from vision.datasets.layouts.choose import open_folder, open_split
from vision.datasets.open_images_csv import read_boxes

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated," \
    "IsGroupOf,IsDepiction,IsInside"  # fmt: skip
CLASSES = {"/m/01": "Apple", "/m/02": "Orange", "/m/03": "Hot dog"}


def official(*rows) -> str:
    """Rows of (id, label, xmin, xmax, ymin, ymax, group, depiction)."""
    lines = [
        f"{i},xclick,{label},1,{','.join(map(str, corners))},0,0,{group},{drawn},0"
        for i, label, *corners, group, drawn in rows
    ]
    return "\n".join([HEADER, *lines]) + "\n"


def subset(*rows) -> str:
    header = "ImageID,ClassName,XMin,XMax,YMin,YMax"
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def test_a_subset_as_the_downloaders_write_it(tmp_path):
    write_image(tmp_path / "train/a1.jpg")
    write_image(tmp_path / "train/b2.jpg")
    rows = [("a1", "Orange", 0.1, 0.6, 0.2, 0.8), ("a1", "Apple", 0, 1, 0, 1)]
    (tmp_path / "sub-train-annotations-bbox.csv").write_text(subset(*rows))
    index, folder = open_split(tmp_path, "train")
    assert folder == tmp_path / "train"
    assert [category.name for category in index.categories] == ["Apple", "Orange"]
    assert [index.file_name(i) for i in range(2)] == ["a1.jpg", "b2.jpg"]
    assert index.labels.tolist() == [2, 1]
    np.testing.assert_allclose(index.boxes_xywh, [[10, 10, 50, 30], [0, 0, 100, 50]])


def test_the_official_files_with_some_of_the_images(tmp_path):
    write_image(tmp_path / "validation/a1.jpg")
    rows = [("a1", "/m/01", 0, 1, 0, 1, 1, 0), ("gone", "/m/02", 0, 1, 0, 1, 0, 0)]
    (tmp_path / "validation-annotations-bbox.csv").write_text(official(*rows))
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/01,Apple\n/m/02,Orange\n")
    folder = open_folder(tmp_path, split="val")
    assert folder.splits == ["val"]
    index = folder.open("val").index
    assert [category.name for category in index.categories] == ["Apple"]
    assert len(index) == 1 and index.iscrowd.tolist() == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line names no ImageID"),
        ("ImageID,XMin,XMax,YMin,YMax\n", "names no ClassName or LabelName"),
        (subset(("a1", "Apple", 0.1, 0.2, 0.3)), ":2: not a row of a box"),
        (subset(("a1", "Apple", 0, 1, 0, 1), ("a1", "Apple", 0, "x", 0, 1)), ":3: not a row"),
        (subset(("a1", "Apple", 0, "nan", 0, 1)), ":2: not a row of a box .its corners"),
        (subset(("a1", "Apple", 10, 60, 5, 40)), "csv: most boxes end beyond 1, so .* pixels"),
        ('ImageID,ClassName,XMin,XMax,YMin,YMax\na1,"' + "x\n" * 70_000, r"bbox.csv:\d+: not CSV"),
        (subset(("zz", "Apple", 0, 1, 0, 1)), "1 of the 1 images .* missing: zz"),
    ],
    ids=["empty", "header", "short", "text", "nan", "pixels", "quote", "missing"],
)
def test_bad_files_are_named(tmp_path, text, message):
    write_image(tmp_path / "train/a1.jpg")
    (tmp_path / "sub-train-annotations-bbox.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        open_split(tmp_path, "train", layout="open-images")
    assert "\n" not in str(error.value)


# ---- the downloader


@pytest.fixture
def mirror(tmp_path):
    """A server with six training images, two for validation and one for test."""
    root = tmp_path / "mirror"
    rows = {
        "train": [(f"t{i}", "/m/01" if i % 2 else "/m/02", 0.1, 0.6, 0.2, 0.8, 0, 0)
                  for i in range(6)]
        + [("t1", "/m/03", 0, 1, 0, 1, 0, 0), ("drawn", "/m/01", 0, 1, 0, 1, 0, 1)],
        "validation": [("v0", "/m/01", 0, 1, 0, 1, 0, 0), ("v1", "/m/03", 0, 1, 0, 1, 0, 0)],
        "test": [("x0", "/m/02", 0, 1, 0, 1, 0, 0)],
    }  # fmt: skip
    for split, items in rows.items():
        (root / split).mkdir(parents=True)
        (root / split / f"{split}-annotations-bbox.csv").write_text(official(*items))
        for image_id in {item[0] for item in items}:
            pixels = np.random.default_rng(len(image_id)).integers(0, 256, (60, 80, 3), np.uint8)
            assert cv2.imwrite(str(root / split / f"{image_id}.jpg"), pixels)
    text = "".join(f"{label},{name}\n" for label, name in CLASSES.items())
    (root / "class-descriptions-boxable.csv").write_text(text)
    with FaultServer(root) as server:
        yield server


def download(server, folder, *flags, names="Apple,Orange"):
    urls = ("--annotations-url", server.url, "--images-url", server.url)
    return call(
        "open_images_downloader", "--data", folder, "--class-names", names, *urls, *flags,
        "--retry=1", "--timeout=5",
    )  # fmt: skip


def test_it_fetches_goes_on_and_trains(mirror, tmp_path):
    folder = tmp_path / "fruit"
    done = download(mirror, folder, "--stats-only")
    assert done.code == 0 and "train: 6 images, 6 boxes (Apple 3, Orange 3)" in done.out
    assert not (folder / "train").exists()
    image = tmp_path / "mirror/train/t3.jpg"
    image.rename(tmp_path / "t3.jpg")
    done = download(mirror, folder)
    assert done.code == 1 and "1 images are not there" in done.err, done.err
    (tmp_path / "t3.jpg").rename(image)
    again = download(mirror, folder)
    assert again.code == 0, again.err
    number = len(mirror.requests)
    assert download(mirror, folder).code == 0 and len(mirror.requests) == number
    assert sorted(path.name for path in (folder / "train").iterdir()) == [
        f"t{i}.jpg" for i in range(6)
    ]
    with open(folder / "sub-validation-annotations-bbox.csv", newline="") as file:
        assert [row["ClassName"] for row in csv.DictReader(file)] == ["Apple"]
    done = call("train_ssd", "--datasets", folder, *FAST, "--checkpoint-folder", tmp_path / "run")
    assert done.code == 0 and "Open Images layout" in done.err, done.err
    assert "val: 1 images" in done.err


def test_what_is_chosen(mirror, tmp_path):
    folder = tmp_path / "fruit"
    done = download(mirror, folder, "--stats-only", "--max-images=4")
    assert sum(int(line.split(": ")[1].split()[0]) for line in done.out.splitlines()) == 4
    done = download(mirror, folder, "--stats-only", "--max-annotations-per-class=1")
    for name in ("Apple", "Orange"):
        assert sum(int(count) for count in re.findall(rf"{name} (\d+)", done.out)) == 1
    done = download(mirror, folder, "--stats-only", "--related-images")
    assert "train: 6 images, 7 boxes (Apple 3, Orange 3, other classes 1)" in done.out
    flags = ("--max-images=-1", "--max-annotations-per-class=-1")  # the family's: no limit
    done = download(mirror, folder, "--stats-only", *flags, names="apple,ORANGE,Apple")
    assert "train: 6 images, 6 boxes (Apple 3, Orange 3)" in done.out
    done = download(mirror, folder, "--stats-only", "--include-depiction")
    assert "train: 7 images" in done.out


def test_an_unknown_class_names_the_nearest(mirror, tmp_path):
    done = download(mirror, tmp_path / "fruit", names="Aple")
    assert done.code == 1 and "no boxes of 'Aple'; near: Apple" in done.err


def test_an_answer_that_is_no_image_is_not_kept(mirror, tmp_path):
    (tmp_path / "mirror/train/t0.jpg").write_bytes(b"<html>busy</html>")
    done = download(mirror, tmp_path / "fruit")
    assert done.code == 1 and "t0.jpg: " in done.err
    assert not (tmp_path / "fruit/train/t0.jpg").exists()
    text = (tmp_path / "fruit/sub-train-annotations-bbox.csv").read_text()
    assert "t0," not in text and "t1," in text


def test_a_large_file_is_read_row_by_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        subset(*[(f"i{i}", "Apple", 0, 1, 0, 1) for i in range(5000)]).encode("utf-16")
    )
    assert sum(1 for _ in read_boxes(path)) == 5000
    assert [box.image_id for box in read_boxes(path, wanted={"i4999"})] == ["i4999"]


@settings(max_examples=50)
@given(data=st.data())
def test_any_damage_is_read_or_named(tmp_path, data):
    text = subset(("a1", "Apple", 0.1, 0.6, 0.2, 0.8), ("b2", "Hot dog", 0, 1, 0, 1)).encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    path = tmp_path / "a.csv"
    path.write_bytes(text[:start] + data.draw(st.binary(max_size=8)) + text[end:])
    try:
        boxes = list(read_boxes(path))
        assert all(np.isfinite(box.corners).all() for box in boxes)
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path}/a.csv"), error
