"""Drawing: the pixels where a box is, and nothing else."""

import numpy as np
import pytest

from vision.visualize import draw_boxes


def changed(image: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return (image != picture).any(axis=2)


def test_outline_is_drawn_and_the_image_is_left():
    image = np.full((100, 200, 3), 200, np.uint8)
    picture = draw_boxes(image, np.array([[50, 40, 150, 90]]), ["cat"])
    where = changed(image, picture)
    assert picture.shape == image.shape
    assert (image == 200).all()
    assert where[40, 100:150].all() and where[90, 50:151].all()
    assert where[41:90, 50].all() and where[41:90, 150].all()
    assert not where[45:85, 55:145].any()  # nothing inside
    assert where[25:40, 50:60].any()  # the name above
    assert not where[:20].any()


def test_no_boxes_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_boxes(image, np.zeros((0, 4)), []), image)


@pytest.mark.parametrize(
    "box",
    [[-1e9, -1e9, 1e9, 1e9], [np.nan, 0, np.inf, 5], [30, 0, 40, 2], [0, 28, 3, 30]],
    ids=["huge", "not finite", "top right", "bottom left"],
)
def test_boxes_at_and_beyond_the_edge(box):
    image = np.zeros((30, 40, 3), np.uint8)
    assert draw_boxes(image, np.array([box]), ["a long name"], scores=[0.5]).shape == image.shape


def test_color_follows_the_name_and_the_best_box_is_on_top():
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[20, 30, 80, 80], [20, 30, 80, 80]])

    def corner(names, scores):
        return draw_boxes(image, boxes, names, scores=scores)[80, 80].tolist()

    cat, dog = corner(["cat", "cat"], [0.1, 0.2]), corner(["dog", "dog"], [0.1, 0.2])
    assert cat != dog
    assert corner(["cat", "dog"], [0.9, 0.2]) == cat
    assert corner(["cat", "dog"], [0.2, 0.9]) == dog


def test_other_alphabets_do_not_fail():
    image = np.zeros((50, 50, 3), np.uint8)
    assert draw_boxes(image, np.array([[5, 20, 45, 45]]), ["caf\u00e9 \u732b"]).any()
