"""Rows of label files that hold more than a box: known by all of them, or by the flag."""

import numpy as np
import pytest
from yolo_factory import make_folder

from vision.datasets.layouts.choose import open_split
from vision.datasets.layouts.layout import OpenOptions

POSE = "0 0.5 0.5 0.4 0.4 " + " ".join(["0.45 0.55"] * 5)
POSE_VISIBLE = "0 0.5 0.5 0.4 0.4 " + " ".join(["0.45 0.55 2", "0 0 0"] * 2)
TRACK = "0 0.5 0.5 0.4 0.4 0.9 17"
OBB = "0 0.3 0.3 0.7 0.3 0.7 0.7 0.3 0.7"
TRIANGLE = "0 0.3 0.3 0.7 0.3 0.7 0.7"


def read(root, rows, label_format="auto"):
    make_folder(root, {f"{i}.jpg": row for i, row in enumerate(rows)})
    options = OpenOptions(label_format=label_format)
    return open_split(root, "val", options=options).index.boxes_xywh


@pytest.mark.parametrize(
    ("form", "row"),
    [("pose", POSE), ("pose", POSE_VISIBLE), ("track", TRACK)],
    ids=["pose", "pose with visibility", "track"],
)
def test_known_by_all_rows_together(tmp_path, form, row):
    with pytest.raises(ValueError, match=f"look like {form}: all 3 rows .*--label-format {form}"):
        read(tmp_path / "auto", [row] * 3)
    assert read(tmp_path / "told", [row] * 3, form).tolist() == [[30, 15, 40, 20]] * 3


@pytest.mark.parametrize("label_format", ["auto", "obb"])
def test_turned_boxes_give_the_box_around_them(tmp_path, label_format):
    boxes = read(tmp_path, [OBB], label_format)
    np.testing.assert_allclose(boxes, [[30, 15, 40, 20]])


def test_polygons_stay_polygons(tmp_path):
    rows = [TRIANGLE, OBB, "0 0.5 0.5 0.4 0.4"]
    np.testing.assert_allclose(read(tmp_path / "mixed", rows), [[30, 15, 40, 20]] * 3)
    np.testing.assert_allclose(read(tmp_path / "one kind", [TRIANGLE] * 3)[0], [30, 15, 40, 20])


def test_rows_of_another_length_are_counted(tmp_path, caplog):
    assert len(read(tmp_path, [POSE, "0 0.5 0.5 0.4 0.4"], "pose")) == 1
    assert "5 numbers, which --label-format pose does not have" in caplog.text


def test_key_points_of_data_yaml(tmp_path):
    make_folder(tmp_path, {"a.jpg": POSE})
    (tmp_path / "data.yaml").write_text("names: [cat, dog, bird]\nkpt_shape: [5, 2]\n")
    assert open_split(tmp_path, "val").index.boxes_xywh.tolist() == [[30, 15, 40, 20]]
