"""One reader for all text: encodings, compression, and each kind of file that goes through it."""

import codecs
import gzip
import json

import pytest
from yolo_factory import BOX, make_folder

from vision.datasets.layouts.choose import open_split
from vision.files.text import read_text

NAME = "Käfer"
ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16-le without mark": lambda text: text.encode("utf-16-le"),
    "utf-32": lambda text: text.encode("utf-32"),
    "windows-1252": lambda text: text.encode("cp1252"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip in two parts": lambda text: gzip.compress(b"") + gzip.compress(text.encode()),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
}


@pytest.fixture(params=ENCODINGS.values(), ids=list(ENCODINGS))
def encode(request):
    return request.param


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("place", ["classes.txt", "labels/a.txt", "splits/val.txt", "images/a.jpg"])
def test_what_stands_for_a_file_is_not_taken_for_it(tmp_path, place):
    root = make_folder(tmp_path / "data", {"a.jpg": BOX, "b.jpg": BOX})
    for content, said in ((POINTER, "git lfs pull"), (b"<!DOCTYPE html>\n<p>busy", "a web page")):
        (root / place).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{place}: .*{said}"):
            open_split(root, "val")
    (root / "annotations").mkdir()
    (root / "annotations/instances_val.json").write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"instances_val\.json: a Git LFS pointer"):
        open_split(root, "val")


def test_text(tmp_path, encode):
    (tmp_path / "a.txt").write_bytes(encode(f"{NAME}\nlast\n"))
    assert read_text(tmp_path / "a.txt").splitlines() == [NAME, "last"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "holds binary data"),
        (gzip.compress(b"cat\n" * 100)[:-9], "damaged gzip"),
        (gzip.compress(b"cat\n")[:5] + b"\xff" * 30, "damaged gzip"),
        (codecs.BOM_UTF16_LE + b"a", "not UTF-16-LE"),
    ],
    ids=["binary", "cut off", "damaged", "half a letter"],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_text(tmp_path / "a.txt")
    assert str(error.value).startswith(f"{tmp_path}/a.txt: ")


@pytest.mark.parametrize("file", ["classes.txt", "splits/val.txt", "labels/a.txt"])
def test_a_yolo_folder_in_any_encoding(tmp_path, encode, file):
    root = make_folder(tmp_path, {"a.jpg": BOX})
    (root / "classes.txt").write_text(f"{NAME}\n", encoding="utf-8")
    text = (root / file).read_text(encoding="utf-8")
    (root / file).write_bytes(encode(text))
    index = open_split(root, "val").index
    assert [category.name for category in index.categories] == [NAME]
    assert index.boxes_xywh.tolist() == [[25, 12.5, 50, 25]]


def test_a_coco_file_in_any_encoding(tmp_path, encode):
    make_folder(tmp_path, {"a.jpg": BOX})
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 50}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 3, "name": NAME}],
    }
    (tmp_path / "annotations").mkdir()
    text = json.dumps(content, ensure_ascii=False)
    (tmp_path / "annotations/instances_val.json").write_bytes(encode(text))
    index = open_split(tmp_path, "val", layout="coco").index
    assert [category.name for category in index.categories] == [NAME]
    assert index.boxes_xywh.tolist() == [[1, 2, 30, 20]]
