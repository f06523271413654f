"""Rows of YOLO label files: which make a box, which are left out, and how that is said."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yolo_factory import BOX, as_coco, make_folder

from vision.datasets import yolo_rows
from vision.datasets.findings import Findings
from vision.datasets.yolo import read_yolo
from vision.datasets.yolo_labels import LabelParser

CLASSES = {0: "cat", 1: "dog", 2: "bird"}


def read_rows(tmp_path: Path, rows: str, **options) -> tuple[list[dict], dict[str, int]]:
    """Annotations and findings of one image of 100 x 50."""
    findings = Findings()
    root = make_folder(tmp_path, {"a.png": rows})
    coco = as_coco(read_yolo(root, findings=findings, **options)["val"])
    return coco["annotations"], findings.counts


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("0 0 0.5 0.5 0.5", [0, 12.5, 25, 25]),
        ("0 1 1 1 1", [50, 25, 50, 25]),
        ("0 0.5 0.5 3 3", [0, 0, 100, 50]),
        ("1 0.1 0.2 0.3 0.2 0.3 0.6", [10, 10, 20, 20]),
        ("1 -0.1 0.2 0.3 0.2 0.3 1.6 0.1 0.3", [0, 10, 30, 40]),
        ("\ufeff0 0.5 0.5 0.5 0.5\r\n\r\n", [25, 12.5, 50, 25]),
        ("0.0\t0.5 5e-1  .5 0.5", [25, 12.5, 50, 25]),
    ],
    ids=["left", "corner", "larger", "segment", "segment outside", "bom and crlf", "spellings"],
)
def test_rows_that_make_a_box(tmp_path, rows, expected):
    annotations, _ = read_rows(tmp_path, rows)
    assert [annotation["bbox"] for annotation in annotations] == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("0 0.5 0.5 0.5", "malformed row"),
        ("cat 0.5 0.5 0.5 0.5", "malformed row"),
        ("0 0.5 0.5 0.5 0.5 0.9", "malformed row"),
        ("0 0,5 0,5 0,5 0,5", "malformed row"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.9", "malformed row"),
        ("3 0.5 0.5 0.5 0.5", "unknown class"),
        ("-1 0.5 0.5 0.5 0.5", "unknown class"),
        ("0.5 0.5 0.5 0.5 0.5", "unknown class"),
        ("nan 0.5 0.5 0.5 0.5", "unknown class"),
        ("0 nan 0.5 0.5 0.5", "not finite"),
        ("0 0.5 0.5 inf 0.5", "not finite"),
        ("0 0.1 0.1 nan 0.2 0.3 0.3", "not finite"),
        ("0 0.5 0.5 0 0.5", "no area"),
        ("0 0.5 0.5 -0.5 0.5", "no area"),
        ("0 1.5 0.5 0.5 0.5", "no area"),
        ("0 320 240 64 48", "no area"),
        ("0 0.1 0.1 0.1 0.2 0.1 0.3", "no area"),
    ],
)
def test_rows_that_are_left_out(tmp_path, row, kind):
    annotations, counts = read_rows(tmp_path, f"{row}\n{BOX}\n")
    assert counts == {kind: 1}
    assert len(annotations) == 1 and annotations[0]["id"] == 1


def test_clipping_is_counted_but_not_that_of_a_rounded_border(tmp_path):
    annotations, counts = read_rows(
        tmp_path, "0 0.95 0.5 0.2 0.2\n0 0.500001 0.5 1.000001 1.000001\n"
    )
    assert counts == {"clipped": 1}
    assert annotations[1]["bbox"] == pytest.approx([0, 0, 100, 50], abs=1e-3)


def test_confidence_is_ignored_where_it_is_allowed(tmp_path):
    rows = f"{BOX} 0.9\n1 0.1 0.2 0.3 0.2 0.3 0.6 0.8\n{BOX}\n"
    annotations, counts = read_rows(tmp_path, rows, has_confidence=True)
    assert [annotation["category_id"] for annotation in annotations] == [1, 2, 1]
    assert counts == {}


def test_findings_name_file_and_line(tmp_path, caplog):
    read_rows(tmp_path, f"{BOX}\n7 0.5 0.5 0.5 0.5\n")
    label_file = tmp_path / "labels" / "a.txt"
    assert f"{label_file}:2: class 7 is not in the class list" in caplog.text


def test_twenty_of_a_kind_are_shown_and_all_reported(tmp_path, caplog):
    findings = Findings()
    root = make_folder(tmp_path, {"a.png": "7 0.5 0.5 0.5 0.5\n" * 30, "b.png": BOX})
    read_yolo(root, findings=findings)
    assert caplog.text.count("class 7") == 20
    report = findings.as_report()["unknown class"]
    assert report["count"] == 30
    assert [item["line"] for item in report["items"]] == list(range(1, 31))


@pytest.mark.parametrize("row", ["3 0.5 0.5 0.5 0.5", "0 0.5 0.5", "cat 0.5 0.5 0.5 0.5"])
def test_strict_labels_name_file_and_line(tmp_path, row):
    with pytest.raises(ValueError, match=r"a\.txt:2: .*row"):
        read_rows(tmp_path, f"{BOX}\n{row}\n", strict_labels=True)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), *[st.floats(0.01, 0.99)] * 2, *[st.floats(0.001, 0.02)] * 2),
        min_size=1,
        max_size=30,
    )
)
def test_boxes_inside_the_image_keep_their_place(table):
    parser = LabelParser(Findings())
    content = "\n".join(" ".join(f"{value:.6f}" for value in row[1:]) for row in table)
    lines = [f"{row[0]} {text}" for row, text in zip(table, content.splitlines(), strict=True)]
    parser.add(["a.txt"], yolo_rows.read_rows(["\n".join(lines).encode()]))
    boxes = parser.boxes(np.array([[480, 640]]), CLASSES)
    assert boxes.class_ids.tolist() == [row[0] for row in table]
    x, y, width, height = np.array(table).T[1:]
    expected = np.stack([(x - width / 2) * 640, (y - height / 2) * 480, width * 640, height * 480])
    np.testing.assert_allclose(boxes.boxes_xywh.T, expected, atol=2e-3)


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(alphabet="0123456789.- \n\teinfa+_", max_size=200))
def test_no_label_file_crashes_the_parser(content):
    content = content if isinstance(content, bytes) else content.encode()
    parser = LabelParser(Findings(num_shown=0), has_confidence=True)
    parser.add(["a.txt"], yolo_rows.read_rows([content]))
    boxes = parser.boxes(np.array([[10, 10]]), CLASSES)
    assert np.isfinite(boxes.boxes_xywh).all()
