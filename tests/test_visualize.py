"""Drawing: the pixels where a box is, and nothing else."""

import numpy as np

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


def draw_one(box) -> np.ndarray:
    """Where one box with its name and score changes a black image of 60 x 200 pixels."""
    image = np.zeros((60, 200, 3), np.uint8)
    return changed(image, draw_boxes(image, np.array([box]), ["cat"], scores=[0.5]))


def test_a_box_far_outside_leaves_no_mark():
    assert not draw_one([-1e9, -1e9, 1e9, 1e9]).any()


def test_corners_that_are_not_finite_are_at_the_edge():
    where = draw_one([np.nan, 0, np.inf, 50])
    assert where[0].all() and where[50].all() and where[:51, 0].all()
    assert not where[20:50, 1:].any() and not where[51:].any()  # the right side is outside


def test_a_name_at_the_top_right_stays_inside_the_image():
    where = draw_one([180, 0, 195, 55])
    assert where[:11, 165:].all()  # the name, in the box as there is no room above it
    assert not where[:, :130].any() and not where[20:55, 181:195].any()
    assert where[20:56, 180].all() and where[20:56, 195].all() and where[55, 180:196].all()


def test_a_name_at_the_bottom_left_is_above_the_box():
    where = draw_one([0, 56, 40, 59])
    assert where[46:57, :35].all() and not where[:40].any()
    assert where[56:, 0].all() and where[56:, 40].all() and where[59, :41].all()
    assert not where[57:59, 1:40].any() and not where[57:, 41:].any() and not where[:, 70:].any()


def test_color_follows_the_name_and_the_best_box_is_on_top():
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[20, 30, 80, 80], [20, 30, 80, 80]])

    def corner(names, scores):
        return draw_boxes(image, boxes, names, scores=scores)[80, 80].tolist()

    cat, dog = corner(["cat", "cat"], [0.1, 0.2]), corner(["dog", "dog"], [0.1, 0.2])
    assert cat != dog
    assert corner(["cat", "dog"], [0.9, 0.2]) == cat
    assert corner(["cat", "dog"], [0.2, 0.9]) == dog


def test_letters_beyond_ascii_become_question_marks():
    image, box = np.zeros((50, 120, 3), np.uint8), np.array([[5, 20, 45, 45]])
    # These two have the same colour: their bytes have equal sums modulo the number of colours.
    drawn, spelt, other = (
        draw_boxes(image, box, [name]) for name in ("caf\u00e5 \u7330", "caf? ?", "caf? !")
    )
    np.testing.assert_array_equal(drawn, spelt)
    assert changed(drawn, other).any()
