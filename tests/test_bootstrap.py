"""Bootstrap intervals: exact where every image counts once, and equal to repeating images."""

import numpy as np
import pytest
from detection_factory import found, random_case, truth

from vision.evaluation.bootstrap import (
    confidence_intervals,
    draw_weights,
    interval,
    paired_differences,
    resample,
)
from vision.evaluation.coco_arrays import match_boxes
from vision.evaluation.coco_boxes import Detections, GroundTruth
from vision.evaluation.coco_eval import PRECISIONS, RECALLS, evaluate_boxes

NAMES = ["cat", "dog", "owl"]


def assert_same(gt: GroundTruth, dt: Detections, values, row: int = 0):
    """Compare one resample with the evaluator's own numbers."""
    metrics = evaluate_boxes(gt, dt, class_names=NAMES)
    for name in (*PRECISIONS, *RECALLS):
        expected = np.nan if metrics[name] is None else metrics[name]
        assert values.metrics[name][row] == pytest.approx(expected, abs=1e-12, nan_ok=True), name
    for k, name in enumerate(NAMES):
        for key, drawn in values.per_class.items():
            expected = metrics["per_class"][name][key]
            expected = np.nan if expected is None else expected
            assert drawn[row, k] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_every_image_once_gives_the_evaluators_numbers(seed):
    gt, dt = random_case(seed)
    assert_same(gt, dt, resample(match_boxes(gt, dt), np.ones((1, gt.num_images), np.int32)))


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_is_the_image_that_often(seed):
    gt, dt = random_case(seed, num_images=8)
    weights = draw_weights(8, num_resamples=3, seed=seed)
    drawn = resample(match_boxes(gt, dt), weights)
    for row, counts in enumerate(weights):
        assert_same(*repeat_images(gt, dt, counts), drawn, row)


def repeat_images(gt: GroundTruth, dt: Detections, counts: np.ndarray):
    """The data set in which image i lies `counts[i]` times."""
    sources = np.repeat(np.arange(len(counts)), counts)
    gt_rows = [np.flatnonzero(gt.image_index == image) for image in sources]
    dt_rows = [np.flatnonzero(dt.image_index == image) for image in sources]
    gt_flat, dt_flat = np.concatenate(gt_rows), np.concatenate(dt_rows)
    repeated = GroundTruth(
        num_images=len(sources),
        num_classes=gt.num_classes,
        image_index=np.repeat(np.arange(len(sources)), list(map(len, gt_rows))),
        labels=gt.labels[gt_flat],
        boxes_xywh=gt.boxes_xywh[gt_flat],
        areas=gt.areas[gt_flat],
        iscrowd=gt.iscrowd[gt_flat],
    )
    detections = dt.take(dt_flat)
    detections.image_index = np.repeat(np.arange(len(sources)), list(map(len, dt_rows)))
    return repeated, detections


def test_numbers_computed_by_hand():
    """Two images, one box each; only the first is found: AP is the share drawn of it."""
    gt = truth((0, 1, 0, 0, 10, 10), (1, 1, 0, 0, 10, 10))
    dt = found((0, 1, 0, 0, 10, 10, 0.9))
    drawn = resample(match_boxes(gt, dt), np.array([[2, 0], [1, 1], [0, 2]], np.int32))
    assert drawn.metrics["AR100"].tolist() == [1, 0.5, 0]
    # Recall 1, 1/2 and 0: all, 51 and none of the 101 points have precision 1.
    assert drawn.metrics["AP"] == pytest.approx([1, 51 / 101, 0])
    assert np.isnan(drawn.metrics["APl"]).all()


def test_a_class_that_was_not_drawn_is_not_in_the_mean():
    gt = truth((0, 1, 0, 0, 10, 10), (1, 2, 0, 0, 10, 10))
    dt = found((0, 1, 0, 0, 10, 10, 0.9))
    drawn = resample(match_boxes(gt, dt), np.array([[2, 0], [1, 1], [0, 2]], np.int32))
    assert drawn.metrics["AP"] == pytest.approx([1, 0.5, 0])
    assert np.isnan(drawn.per_class["AP"][0, 1]) and np.isnan(drawn.per_class["AP"][2, 0])


def test_every_resample_draws_as_many_images_and_seeds_repeat():
    weights = draw_weights(7, num_resamples=50, seed=3)
    assert (weights.sum(axis=1) == 7).all() and (weights >= 0).all()
    assert (weights == draw_weights(7, num_resamples=50, seed=3)).all()
    assert (weights != draw_weights(7, num_resamples=50, seed=4)).any()


def test_interval_is_that_of_the_quantiles():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.array([np.nan, 1, 1])) == (1, 1)
    assert interval(np.array([np.nan])) is None


def test_intervals_hold_the_number_and_narrow_with_more_images():
    widths = []
    for num_images in (20, 320):
        gt, dt = random_case(1, num_images=num_images)
        ap = evaluate_boxes(gt, dt, class_names=NAMES)["AP"]
        low, high = confidence_intervals(match_boxes(gt, dt), NAMES, num_resamples=200)["AP"]
        assert low < ap < high
        widths.append(high - low)
    # A sixteenth of the variance, a quarter of the width.
    assert widths[1] < widths[0] / 2


def test_without_boxes_detections_or_images():
    nothing = confidence_intervals(match_boxes(truth(num_images=0), found()), NAMES)
    assert nothing["AP"] is None and nothing["per_class"]["cat"] == {"AP": None, "AP50": None}
    boxless = confidence_intervals(match_boxes(truth(), found()), NAMES, num_resamples=5)
    assert boxless["AP"] is None and boxless["AR100"] is None
    gt = truth((0, 1, 0, 0, 10, 10))
    unseen = confidence_intervals(match_boxes(gt, found()), NAMES, num_resamples=5)
    assert unseen["AP"] == (0, 0) and unseen["per_class"]["dog"]["AP"] is None


def test_a_run_against_itself_differs_by_nothing():
    gt, dt = random_case(0)
    matches = match_boxes(gt, dt)
    found_differences = paired_differences(matches, matches, NAMES, num_resamples=50)
    for name in ("AP", "AR1"):
        difference = found_differences[name]
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert not difference.is_significant


def test_paired_tells_what_two_intervals_do_not():
    """The second run finds everything of the first and, in each image, a little more."""
    gt, dt = random_case(2, num_images=60, crowds=False)
    better = dt.take(np.arange(len(dt)))
    is_noise = np.arange(len(dt)) >= 2 * (2 * len(gt.labels) // 3)
    better.scores = np.where(is_noise, better.scores * 0.7, better.scores)
    first, second = match_boxes(gt, dt), match_boxes(gt, better)
    before, after = (
        confidence_intervals(m, NAMES, num_resamples=200)["AP"] for m in (first, second)
    )
    assert before[1] > after[0]  # they overlap
    differences = paired_differences(first, second, NAMES, num_resamples=200)
    expected = [evaluate_boxes(gt, d, class_names=NAMES) for d in (dt, better)]
    assert differences["AP"].value == pytest.approx(expected[1]["AP"] - expected[0]["AP"])
    assert differences["AP"].is_significant and differences["AP"].low > 0
    by_class = [metrics["per_class"]["dog"]["AP"] for metrics in expected]
    assert differences["per_class"]["dog"].value == pytest.approx(by_class[1] - by_class[0])


def test_one_image_tells_no_difference():
    gt = truth((0, 1, 0, 0, 10, 10), num_images=1)
    first, second = match_boxes(gt, found()), match_boxes(gt, found((0, 1, 0, 0, 10, 10, 0.9)))
    assert paired_differences(first, second, NAMES)["AP"] is None
