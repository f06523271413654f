"""Label files read at once give what reading them a line at a time gives; processes too."""

import dataclasses
import os
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yolo_factory import BOX, make_folder

from vision.datasets import yolo_files
from vision.datasets.yolo_rows import LabelRows, read_lines, read_rows


def read_one_by_one(contents: list[bytes]) -> list[tuple[int, int, list[float]]]:
    """What the docstring promises, without any of the fast code: file, line, numbers."""
    rows = []
    for index, content in enumerate(contents):
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
            try:
                values = [float(word) for word in line.split()]
            except ValueError:
                values = []
            if values or line.strip():
                rows.append((index, number, values))
    return rows


def as_list(rows: LabelRows) -> list[tuple[int, int, list[float]]]:
    ends = np.cumsum(rows.lengths)
    assert len(rows.values) == (ends[-1] if len(ends) else 0)
    return [
        (index, line, rows.values[end - length : end].tolist())
        for index, line, length, end in zip(
            *(column.tolist() for column in (rows.file_indices, rows.lines, rows.lengths, ends)),
            strict=True,
        )
    ]


ODD_WORDS = """
    +1 .5 1. 00.5 1e400 -0 -0.0 1e-400 inf -inf nan NaN Infinity 1_0 0x1 0,5 null true [1] "1" ] 1E5
    123456789012345678901234567890 0.1000000000000000055511151231257827021181583404541015625 - e5
    1e+05 9.5e-05 cat \x00 \u00e9 1,2
"""
ODD_ENDS = ["\r\n", "\r", "\n\n", " \n", "\n ", "\r\r\n", "\n\t\n", "\x1c"]
plain = st.integers(-3, 3000).map(str) | st.floats().map(repr)
plain = plain | st.floats(0, 1).map("{:.6f}".format)
odd = st.sampled_from(ODD_WORDS.split())
gaps = st.sampled_from([" "] * 20 + ["  ", "\t", " \t", "\x0b", ","])
ends = st.sampled_from(["\n"] * 20 + ODD_ENDS)


@st.composite
def label_files(draw) -> bytes:
    """A label file: mostly plain rows, now and then another spelling."""
    words = plain if draw(st.booleans()) else plain | odd
    text = draw(st.sampled_from(["", "", "", "\ufeff", "\n", " "]))
    for _ in range(draw(st.integers(0, 5))):
        row = draw(st.lists(words, max_size=8))
        text += "".join(word + draw(gaps) for word in row[:-1]) + "".join(row[-1:]) + draw(ends)
    return text[: draw(st.sampled_from([None, -1]))].encode()


@settings(max_examples=500, deadline=None)
@given(st.lists(label_files() | st.binary(max_size=40), max_size=6))
def test_many_files_at_once_are_read_as_one_by_one(contents):
    expected = read_one_by_one(contents)
    # repr tells -0.0 from 0.0 and is the same for every nan
    assert repr(as_list(read_rows(contents))) == repr(expected)
    slowly = [as_list(read_lines(index, content)) for index, content in enumerate(contents)]
    assert repr(list(chain.from_iterable(slowly))) == repr(expected)


@pytest.mark.parametrize(
    "contents",
    [
        [],
        [b"", b"\n", b"\xef\xbb\xbf"],
        [b"0 0.5 0.5 0.5 0.5\r\n1 1 1 1 1\r\n", b"", b"\xef\xbb\xbf2 3\n"],
        [b"0 0.5\n\n1 2\n", b"3 4"],
        [b"0 0,5 0,5\n", b"3 4"],
        [b"0 0.5\r 0.5\n", b"3 4"],
        [b"0 -0 -0.0 0.5\n", b"3 4"],
    ],
    ids=["no file", "empty files", "crlf and bom", "blank line", "commas", "lone return", "-0"],
)
def test_spellings_by_hand(contents):
    assert repr(as_list(read_rows(contents))) == repr(read_one_by_one(contents))


def test_plain_files_take_the_fast_way(monkeypatch):
    monkeypatch.setattr("vision.datasets.yolo_rows.read_lines", None)
    contents = [b"0 0.5 0.25 1 1e-7\r\n3 0.5 0.5 0.5 0.5\r\n", b"\xef\xbb\xbf7 1 1 1 1 1 1\n"]
    assert as_list(read_rows(contents)) == read_one_by_one(contents)


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_read_what_one_reads(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(yolo_files, "_BLOCK", 4)
    labels = {f"{index}.png": f"{BOX}\n" * (index % 3) for index in range(18)}
    root = make_folder(tmp_path, {**labels, "x.png": None, "y.png": "cat 1\n1 2 3"})
    images = [os.path.join(root, "images", name) for name in (*labels, "x.png", "y.png")]
    one, many = (
        list(yolo_files.read_labelled_images(root, images, workers=number))
        for number in (1, workers)
    )
    assert sum(block.num_without for block in many) == 1
    assert [list(block.images) for block in many] == [images[i : i + 4] for i in range(0, 20, 4)]
    for first, second in zip(one, many, strict=True):
        np.testing.assert_equal(dataclasses.asdict(first), dataclasses.asdict(second))


def test_an_unreadable_image_is_named_from_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr(yolo_files, "_BLOCK", 4)
    root = make_folder(tmp_path, {f"{index}.png": BOX for index in range(10)})
    (root / "images" / "7.png").write_bytes(b"x")
    images = [os.path.join(root, "images", f"{index}.png") for index in range(10)]
    with pytest.raises(ValueError, match=r"7\.png: not a readable image"):
        list(yolo_files.read_labelled_images(root, images, workers=2))
