"""Rows of label files as flat arrays, whatever they are spelled like; files read in threads."""

import os

import numpy as np
import pytest
from yolo_factory import BOX, make_folder

from vision.datasets import yolo_files
from vision.datasets.yolo_rows import LabelRows, read_rows


def as_list(rows: LabelRows) -> list[tuple[int, int, list[float]]]:
    """(file, line, numbers) of each row."""
    ends = np.cumsum(rows.lengths)
    assert len(rows.values) == (ends[-1] if len(ends) else 0)
    columns = (rows.file_indices, rows.lines, rows.lengths, ends)
    return [
        (index, line, rows.values[end - length : end].tolist())
        for index, line, length, end in zip(*(c.tolist() for c in columns), strict=True)
    ]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([], []),
        ([b"", b"\n \t\n"], []),
        (
            [b"0 0.5 1e-7\r\n3 .5 +1.\r\n", b"", b"2 3"],
            [(0, 1, [0, 0.5, 1e-7]), (0, 2, [3, 0.5, 1]), (2, 1, [2, 3])],
        ),
        ([b"0 1\n\n \n1\t2  3\n", b"4"], [(0, 1, [0, 1]), (0, 4, [1, 2, 3]), (1, 1, [4])]),
        ([b"0 0,5\ncat 1\n1 0x1\n2 2\n"], [(0, 1, []), (0, 2, []), (0, 3, []), (0, 4, [2, 2])]),
        ([b"0 1\r2 3\n", b"\xff\xfe1\n"], [(0, 1, [0, 1]), (0, 2, [2, 3]), (1, 1, [])]),
        ([b"-0.0 inf\n"], [(0, 1, [-0.0, float("inf")])]),
    ],
    ids=["no file", "empty", "crlf", "blank lines", "no numbers", "lone return", "odd"],
)
def test_rows_by_hand(contents, expected):
    assert repr(as_list(read_rows(contents))) == repr(
        [(file, line, list(map(float, row))) for file, line, row in expected]
    )


def test_images_are_read_in_order_a_block_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(yolo_files, "_BLOCK", 5)
    monkeypatch.setattr(yolo_files, "_CHUNK", 2)
    labels = {f"{index}.png": f"{index} 1\n" * (index % 3) for index in range(11)}
    root = make_folder(tmp_path, {**labels, "x.png": None})
    images = [os.path.join(root, "images", name) for name in (*labels, "x.png")]
    blocks = list(yolo_files.read_labelled_images(root, images))
    assert [list(block.images) for block in blocks] == [images[:5], images[5:10], images[10:]]
    assert [block.num_without for block in blocks] == [0, 0, 1]
    rows = [(5 * b + i, row[0]) for b, x in enumerate(blocks) for i, _, row in as_list(x.rows)]
    assert rows == [(index, index) for index in range(11) for _ in range(index % 3)]
    assert all(size == [50, 100] for block in blocks for size in block.sizes.tolist())


def test_an_unreadable_image_is_named(tmp_path):
    root = make_folder(tmp_path, {f"{index}.png": BOX for index in range(10)})
    (root / "images" / "7.png").write_bytes(b"x")
    images = [os.path.join(root, "images", f"{index}.png") for index in range(10)]
    (block,) = yolo_files.read_labelled_images(root, images)
    assert list(block.unreadable) == [7] and "7.png: not a readable image" in block.unreadable[7]
