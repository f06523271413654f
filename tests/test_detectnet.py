"""detectNet's way with images and outputs, against results worked out by hand."""

import numpy as np
import pytest

from vision.deploy.detectnet import sample_points, select_detections

NAMES = ["BACKGROUND", "cat", "dog", "void"]
SIZE = (100, 200)  # height, width


def run(rows, **options):
    """Rows of (scores of cat, dog and void, box in pixels of a 200x100 image)."""
    scores = np.array([[1 - sum(row[0]), *row[0]] for row in rows], np.float32)
    boxes = np.array([row[1] for row in rows], np.float32) / np.array([200, 100, 200, 100])
    options = {"class_names": NAMES, **options}
    return select_detections(scores, boxes.astype(np.float32), SIZE, **options)


def shown(found):
    rows = zip(found.labels, found.scores, found.xyxy, strict=True)
    return [
        (int(label), round(float(score), 3), box.round(3).tolist()) for label, score, box in rows
    ]


def test_every_second_pixel():
    image = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    # Rows int(0 * 1.5) = 0, int(1 * 1.5) = 1, int(2 * 1.5) = 3, int(3 * 1.5) = 4.
    np.testing.assert_array_equal(sample_points(image, (4, 2)), image[[0, 1, 3, 4]][:, [0, 2]])


def test_enlarging_repeats():
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(sample_points(image, (3, 4)), image[[0, 0, 1]][:, [0, 0, 1, 1]])


def test_the_best_class_from_the_threshold_on():
    found = run(
        [
            ([0.3, 0.6, 0.0], [10, 10, 30, 30]),
            ([0.45, 0.4, 0.0], [50, 50, 60, 60]),  # neither reaches 0.5
            ([0.5, 0.0, 0.0], [100, 50, 110, 60]),  # exactly 0.5
        ]
    )
    assert shown(found) == [(2, 0.6, [10, 10, 30, 30]), (1, 0.5, [100, 50, 110, 60])]


def test_void_is_not_shown():
    assert shown(run([([0.1, 0.1, 0.8], [0, 0, 50, 50])])) == []


def test_a_box_is_merged_into_the_first_of_its_class():
    """Box 1: 100 x 40. The second covers x 10..110: intersection 90/100 = 0.9 of the larger."""
    found = run(
        [
            ([0.6, 0, 0], [0, 0, 100, 40]),
            ([0.9, 0, 0], [10, 0, 110, 40]),  # merged: 0..110, 0.9
            # 30..110 is 80 of the 110 that box 1 now has: 0.727.
            ([0.7, 0, 0], [30, 0, 130, 40]),
            ([0, 0.8, 0], [0, 0, 110, 40]),  # another class
        ]
    )
    assert shown(found) == [
        (1, 0.9, [0, 0, 110, 40]),
        (2, 0.8, [0, 0, 110, 40]),
        (1, 0.7, [30, 0, 130, 40]),
    ]


def test_the_larger_box_counts_and_not_the_union():
    """Of a 60 x 40 box in a 100 x 40 one the intersection is all, but 0.6 of the larger."""
    rows = [([0.6, 0, 0], [0, 0, 100, 40]), ([0.9, 0, 0], [20, 0, 80, 40])]
    assert len(run(rows).scores) == 2
    assert len(run(rows, clustering=0.59).scores) == 1


def test_a_merged_box_is_compared_at_its_new_size():
    """0..100 and 20..120 (0.8) become 0..120; 0..90 is 0.75 of that, not more: it stays."""
    rows = [
        ([0.6, 0, 0], [0, 0, 100, 40]),
        ([0.6, 0, 0], [20, 0, 120, 40]),
        ([0.6, 0, 0], [0, 0, 90, 40]),  # 0.9 of the first alone
    ]
    assert shown(run(rows)) == [(1, 0.6, [0, 0, 120, 40]), (1, 0.6, [0, 0, 90, 40])]


def test_corners_end_at_the_last_pixel():
    found = run([([0.9, 0, 0], [-20, -5, 200, 99.5]), ([0.9, 0, 0], [150, 50, 230, 130])])
    assert shown(found) == [(1, 0.9, [0, 0, 199, 99.5]), (1, 0.9, [150, 50, 199, 99])]


def test_the_largest_comes_first():
    boxes = [[0, 0, 10, 10], [50, 50, 90, 90], [100, 0, 120, 20]]
    found = run([([0.9, 0, 0], box) for box in boxes])
    assert [box[2] - box[0] for box in found.xyxy] == pytest.approx([40, 20, 10])


def test_a_dot_has_no_overlap():
    assert len(run([([0.9, 0, 0], [5, 5, 5, 5])] * 2).scores) == 2


def test_nothing_found():
    found = run([([0.1, 0.1, 0.1], [0, 0, 50, 50])])
    assert found.xyxy.shape == (0, 4) and found.labels.dtype == np.int64
