"""What the augmentation draws: the distributions of the SSD paper, not only its shapes."""

import numpy as np
import pytest

from vision.transforms.geometry import RandomExpand, RandomIouCrop, View
from vision.transforms.photometric import PhotometricDistort
from vision.transforms.presets import build_train_transform

FULL = View(0, 0, 640, 480)


def assert_uniform(samples, low, high, *, step=0.0):
    """The share of samples below each of 9 quantiles, and the ends, are those of U(low, high)."""
    assert low - step <= samples.min() and samples.max() <= high + step
    edges = low + (high - low) * np.arange(1, 10) / 10
    below = (samples[:, None] <= edges).mean(axis=0)
    # 1.95 / sqrt(n) is the Kolmogorov-Smirnov bound at p = 0.001.
    slack = 1.95 / np.sqrt(len(samples)) + step / (high - low)
    np.testing.assert_allclose(below, np.arange(1, 10) / 10, atol=slack)


# Geometry


def test_expand_draws_ratio_and_place_uniformly():
    expand, rng = RandomExpand(), np.random.default_rng(0)
    views = np.array([expand(FULL, rng) for _ in range(4000)], float)
    grown = (views != FULL).any(axis=1)
    assert abs(grown.mean() - 0.5) < 0.03
    views = views[grown]
    width, height = views[:, 2] - views[:, 0], views[:, 3] - views[:, 1]
    np.testing.assert_allclose(width / height, 640 / 480, rtol=0.01)
    assert_uniform(width / 640, 1.0, 4.0, step=0.01)
    big = width > 1.5 * 640
    assert_uniform(-views[big, 0] / (width[big] - 640), 0.0, 1.0, step=0.01)
    assert_uniform(-views[big, 1] / (height[big] - 480), 0.0, 1.0, step=0.01)
    assert (views[:, 0] <= 0).all() and (views[:, 2] >= 640).all()


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def has_center(crop, box):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return crop[0] <= x <= crop[2] and crop[1] <= y <= crop[3]


def paper_crop(width, height, boxes, rng):
    """The sampler written down plainly: one patch for each least IoU, then one of these."""
    found = [(0, 0, width, height)]
    for least in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        for _ in range(50):
            w, h = rng.uniform(0.3, 1) * width, rng.uniform(0.3, 1) * height
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            crop = (x, y, x + w, y + h)
            inside = [box for box in boxes if has_center(crop, box)]
            fits = inside and max(iou(crop, box) for box in inside) >= least
            if 0.5 <= w / h <= 2 and fits:
                found.append(crop)
                break
    return found[rng.integers(len(found))]


def crop_statistics(crops, boxes):
    """Deciles of size, aspect and best IoU, and the mean number of centres inside."""
    crops = np.array(crops, float)
    width, height = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
    best = [max(iou(crop, box) for box in boxes) for crop in crops]
    centers = np.mean([[has_center(crop, box) for box in boxes] for crop in crops], axis=0)
    deciles = np.arange(0.1, 1.0, 0.1)
    return (
        np.quantile(width / 640, deciles),
        np.quantile(height / 480, deciles),
        np.quantile(np.log2(width / height), deciles),
        np.quantile(best, deciles),
        centers,
    )


def test_crop_follows_the_plainly_written_sampler():
    boxes = np.array([[40, 60, 300, 400], [350, 100, 420, 220], [500, 20, 620, 90]], np.float32)
    crop, rng = RandomIouCrop(), np.random.default_rng(0)
    ours = [crop(FULL, boxes, rng) for _ in range(2500)]
    paper = [paper_crop(640, 480, boxes.tolist(), rng) for _ in range(2500)]
    whole = [np.mean([tuple(c) == tuple(FULL) for c in crops]) for crops in (ours, paper)]
    assert abs(whole[0] - whole[1]) < 0.04
    for got, expected in zip(
        crop_statistics(ours, boxes), crop_statistics(paper, boxes), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=0.06)


def test_crop_stays_in_range():
    boxes = np.array([[40, 60, 300, 400], [350, 100, 420, 220]], np.float32)
    crop, rng = RandomIouCrop(), np.random.default_rng(1)
    crops = np.array([crop(FULL, boxes, rng) for _ in range(1000)], float)
    assert (crops[:, :2] >= 0).all() and (crops[:, 2:] <= [640, 480]).all()
    width, height = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
    assert width.min() >= 0.3 * 640 - 1 and height.min() >= 0.3 * 480 - 1
    assert (width / height).min() >= 0.5 and (width / height).max() <= 2.0
    assert all(any(has_center(c, box) for box in boxes) for c in crops)
    assert width.min() < 0.4 * 640 and (width / height).max() > 1.8


def test_crop_keeps_the_whole_view_as_often_as_computed():
    """One box as large as the view: a patch's IoU is its area, so the chances can be written down.

    Sides are U(0.3, 1), so P(area >= a) = (1 - a + a ln a) / 0.49: 0.0106 for 0.9, 0.103 for 0.7.
    Within 50 trials these become 0.412 and 0.996; the other four least IoUs always find a patch.
    The whole view is one of 1 + (number found): 0.412 / 7 + 0.588 / 6 = 0.157. A patch of area
    0.9 or more comes from its own least IoU, or by chance from the others (0.173 in all):
    0.412 * 1.173 / 7 + 0.588 * 0.173 / 6 = 0.086.
    """
    view = View(0, 0, 10_000, 10_000)
    crop, rng = RandomIouCrop(), np.random.default_rng(2)
    boxes = np.array([view], np.float32)
    crops = [crop(view, boxes, rng) for _ in range(4000)]
    whole = np.array([c == view for c in crops])
    areas = np.array([(c.x2 - c.x1) * (c.y2 - c.y1) / 1e8 for c in crops])
    assert abs(whole.mean() - 0.157) < 0.02
    assert abs((~whole & (areas >= 0.9)).mean() - 0.086) < 0.02


@pytest.mark.parametrize("least", [0.1, 0.5, 0.9])
def test_crop_reaches_its_least_iou(least):
    boxes = np.array([[10, 10, 630, 470]], np.float32)
    crop, rng = RandomIouCrop(min_ious=(least,)), np.random.default_rng(3)
    best = [iou(crop(FULL, boxes, rng), boxes[0]) for _ in range(400)]
    whole = iou(FULL, boxes[0])
    assert all(value >= least or value == whole for value in best)
    assert sum(value >= least for value in best) > 40


def test_smallest_sides_hold_for_a_whole_expanded_view():
    """Expand and crop together: the output shows 0.09 to 16 times the image's area."""
    rng = np.random.default_rng(4)
    boxes = np.array([[100, 100, 540, 380]], np.float32)
    areas = []
    for _ in range(2000):
        view = RandomIouCrop()(RandomExpand()(FULL, rng), boxes, rng)
        areas.append((view.x2 - view.x1) * (view.y2 - view.y1) / (640 * 480))
    assert 0.08 < min(areas) < 0.25 and 8 < max(areas) <= 16.1


# Boxes as training sees them


def paper_boxes(boxes, rng):
    """Expand, crop and flip written down plainly: {label: box in a 300 x 300 output}."""
    width, height, left, top = 640, 480, 0.0, 0.0
    if rng.random() < 0.5:
        ratio = rng.uniform(1, 4)
        left, top = rng.uniform(0, (ratio - 1) * width), rng.uniform(0, (ratio - 1) * height)
        width, height = ratio * width, ratio * height
    moved = [(x1 + left, y1 + top, x2 + left, y2 + top) for x1, y1, x2, y2 in boxes]
    crop = paper_crop(width, height, moved, rng)
    x_scale, y_scale = 300 / (crop[2] - crop[0]), 300 / (crop[3] - crop[1])
    flip = rng.random() < 0.5
    kept = {}
    for label, box in enumerate(moved, 1):
        x1, x2 = (np.clip(box[i], crop[0], crop[2]) - crop[0] for i in (0, 2))
        y1, y2 = (np.clip(box[i], crop[1], crop[3]) - crop[1] for i in (1, 3))
        x1, x2, y1, y2 = x1 * x_scale, x2 * x_scale, y1 * y_scale, y2 * y_scale
        if has_center(crop, box) and min(x2 - x1, y2 - y1) >= 1:
            kept[label] = (300 - x2, y1, 300 - x1, y2) if flip else (x1, y1, x2, y2)
    return kept


def test_counts_sizes_and_places_of_boxes_follow_the_paper():
    boxes = np.array([[40, 60, 300, 400], [350, 100, 420, 220], [500, 20, 620, 90]], np.float32)
    target = {"boxes": boxes, "labels": np.array([1, 2, 3]), "iscrowd": np.zeros(3, bool)}
    transform = build_train_transform("ssd", image_size=(300, 300), mean=(127, 127, 127))
    image, rng = np.zeros((480, 640, 3), np.uint8), np.random.default_rng(6)
    paper = [paper_boxes(boxes.tolist(), rng) for _ in range(2500)]
    ours = []
    for _ in range(2500):
        moved = transform(image, target, rng)[1]
        ours.append(dict(zip(moved["labels"].tolist(), moved["boxes"].tolist(), strict=True)))
    counts = [np.bincount([len(kept) for kept in side], minlength=4) for side in (ours, paper)]
    np.testing.assert_allclose(counts[0] / 2500, counts[1] / 2500, atol=0.05)
    assert counts[0][0] == 0
    for label in (1, 2, 3):
        a, b = (np.array([k[label] for k in side if label in k]) for side in (ours, paper))
        assert abs(len(a) - len(b)) < 0.05 * 2500
        for measure in (
            lambda x: np.sqrt((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])) / 300,
            lambda x: (x[:, 0] + x[:, 2]) / 600,
            lambda x: (x[:, 1] + x[:, 3]) / 600,
        ):
            deciles = np.arange(0.1, 1.0, 0.1)
            np.testing.assert_allclose(
                np.quantile(measure(a), deciles), np.quantile(measure(b), deciles), atol=0.07
            )


# Colour


def distort(level, count, **options):
    """Distort a small image of one colour many times: float levels [count, 3]."""
    off = {"brightness": 0.0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0.0} | options
    distortion, rng = PhotometricDistort(**off), np.random.default_rng(5)
    image = np.full((2, 2, 3), level, np.uint8)
    return np.array([distortion(image, rng)[0, 0] for _ in range(count)], float)


def test_brightness_shifts_half_of_the_images():
    shift = distort(128, 4000, brightness=32.0)[:, 0] - 128
    moved = distort(128, 4000, brightness=32.0, probability=1.0)[:, 0] - 128
    assert abs((shift == 0).mean() - (0.5 + 0.5 / 64)) < 0.03
    assert_uniform(moved, -32, 32, step=0.5)


def test_contrast_scales_levels():
    factor = distort(100, 4000, contrast=(0.5, 1.5), probability=1.0)[:, 0] / 100
    assert_uniform(factor, 0.5, 1.5, step=0.005)


def test_saturation_scales_the_distance_from_the_brightest_channel():
    out = distort((200, 150, 100), 3000, saturation=(0.5, 1.5), probability=1.0)
    assert (out[:, 0] == 200).all()
    assert_uniform((200 - out[:, 2]) / 100, 0.5, 1.5, step=0.02)
    np.testing.assert_allclose((200 - out[:, 1]) * 2, 200 - out[:, 2], atol=4)


def test_hue_turns_by_at_most_18_degrees():
    out = distort((255, 0, 0), 3000, hue=18.0, probability=1.0)
    assert (out[:, 0] == 255).all() and (out[:, 1:].min(axis=1) == 0).all()
    assert_uniform((out[:, 1] - out[:, 2]) / 255 * 60, -18, 18, step=360 / 256)


def test_contrast_comes_first_or_last():
    """(200, 100, 50), contrast 1.5 and saturation 0.5, each order computed by hand."""
    out = distort((200, 100, 50), 400, contrast=(1.5, 1.5), saturation=(0.5, 0.5), probability=1.0)
    first = np.abs(out - (255, 202, 165)).max(axis=1) <= 3
    last = np.abs(out - (255, 225, 187)).max(axis=1) <= 3
    assert (first | last).all() and 0.4 < first.mean() < 0.6


def test_four_independent_coins_leave_one_in_sixteen_unchanged():
    options = {"brightness": 32.0, "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": 18.0}
    out = distort((180, 60, 120), 4000, **options)
    assert abs((out == (180, 60, 120)).all(axis=1).mean() - 1 / 16) < 0.02
