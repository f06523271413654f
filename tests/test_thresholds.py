"""Thresholds, calibration and the confusion matrix, on numbers worked by hand."""

import numpy as np
import pytest
from detection_factory import found, random_case, truth

from vision.evaluation.coco_arrays import match_boxes
from vision.evaluation.confusion import confusion_matrix
from vision.evaluation.thresholds import Choice, calibrate, class_thresholds, score_curve

BOX = (0, 0, 10, 10)
FAR = (50, 50, 10, 10)
CAT, DOG, OWL = 1, 2, 3


def cats():
    """Four cats; right, right, wrong, right by falling score; a dog's detection besides."""
    gt = truth(*((image, CAT, *BOX) for image in range(4)), num_images=4)
    dt = found(
        (0, CAT, *BOX, 0.9), (1, CAT, *BOX, 0.8), (2, CAT, *FAR, 0.6), (3, CAT, *BOX, 0.4),
        (0, DOG, *FAR, 0.5),
    )  # fmt: skip
    return match_boxes(gt, dt)


def test_curve_over_the_threshold():
    curve = score_curve(cats(), CAT)
    assert curve.precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4])
    assert curve.recall.tolist() == [0.25, 0.5, 0.5, 0.75]
    assert curve.f1.tolist() == pytest.approx([2 / 5, 4 / 6, 4 / 7, 6 / 8])
    assert curve.best_f1() == Choice(0.2, 0.75, 0.75, 0.75)  # halfway from 0.4 to 0
    assert curve.at_precision(0.9) == Choice(pytest.approx(0.7), 1, 0.5, pytest.approx(2 / 3))
    assert curve.at(0.6) == Choice(0.6, 1, 0.5, pytest.approx(2 / 3))  # scores more than 0.6
    assert curve.at(0.95) == Choice(0.95, 0, 0, 0)


def test_thresholds_of_each_class():
    cat, dog = class_thresholds(cats(), 2, precision=0.9)
    assert (cat.best_f1.threshold, cat.at_precision.threshold) == (0.2, pytest.approx(0.7))
    assert (dog.best_f1, dog.at_precision) == (None, None)
    assert class_thresholds(cats(), 2)[0].at_precision is None


def test_curve_of_all_classes():
    assert score_curve(cats()).num_fp.tolist() == [0, 0, 1, 2, 2]


def test_equal_scores_are_kept_together():
    gt = truth((0, CAT, *BOX), (1, CAT, *BOX))
    dt = found((0, CAT, *BOX, 0.5), (0, CAT, *FAR, 0.5), (1, CAT, *BOX, 0.5))
    curve = score_curve(match_boxes(gt, dt), CAT)
    assert (curve.scores.tolist(), curve.num_tp.tolist(), curve.num_fp.tolist()) == (
        [0.5],
        [2],
        [1],
    )


def test_a_class_that_is_not_found_has_no_threshold():
    matches = cats()
    assert score_curve(matches, DOG).best_f1() is None
    assert score_curve(matches, OWL).best_f1() is None
    assert score_curve(matches, DOG).at_precision(0.1) is None
    assert score_curve(matches, OWL).at(0.5) == Choice(0.5, 0, 0, 0)


def test_a_class_that_is_hardly_found_has_no_threshold():
    """One cat right among 20 of the same score: F1 is 2 / (20 + 1) = 0.095."""
    rows = [(0, CAT, *BOX, 0.02), *((0, CAT, 50 + 9 * i, 50, 8, 8, 0.02) for i in range(19))]
    matches = match_boxes(truth((0, CAT, *BOX)), found(*rows))
    assert score_curve(matches, CAT).best_f1().f1 == pytest.approx(2 / 21)
    assert class_thresholds(matches, 1, precision=0.05)[0].best_f1 is None
    assert class_thresholds(matches, 1, precision=0.05)[0].at_precision.precision == 0.05


@pytest.mark.parametrize("seed", range(3))
def test_a_chosen_threshold_gives_what_it_says(seed):
    matches = match_boxes(*random_case(seed))
    for label in (CAT, DOG, OWL):
        curve = score_curve(matches, label)
        best = curve.best_f1()
        assert curve.at(best.threshold) == best
        assert best.f1 == curve.f1.max()


def test_calibration():
    # 0.9 and 0.95 right, 0.92 wrong; 0.45 wrong. The crowd's detection is not counted.
    gt = truth((0, CAT, *BOX), (1, CAT, *BOX), (1, CAT, 100, 100, 90, 90, 1))
    dt = found(
        (0, CAT, *BOX, 0.95), (1, CAT, *BOX, 0.9), (0, CAT, *FAR, 0.92), (1, CAT, *FAR, 0.45),
        (1, CAT, 110, 110, 9, 9, 0.99),
    )  # fmt: skip
    result = calibrate(match_boxes(gt, dt))
    assert result.counts.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 3]
    assert result.hit_rates[9] == pytest.approx(2 / 3)
    assert result.mean_scores[9] == pytest.approx(0.9233333)
    assert result.error == pytest.approx((3 * (0.9233333 - 2 / 3) + 0.45) / 4)
    assert calibrate(match_boxes(truth(), found())).error is None


def test_confusion_matrix_by_hand():
    gt = truth(
        (0, CAT, *BOX),
        (0, DOG, *FAR),
        (1, DOG, *BOX),
        (1, OWL, *FAR),
        (1, CAT, 200, 200, 90, 90, 1),
    )
    dt = found(
        (0, DOG, *BOX, 0.95),  # more than the cat's own detection, which keeps it all the same
        (0, CAT, *BOX, 0.9),
        (0, CAT, *FAR, 0.8),  # the dog as a cat
        (0, CAT, 50, 50, 10, 9, 0.7),  # once more: of the background
        (1, DOG, *BOX, 0.3),  # below the threshold
        (1, CAT, 210, 210, 9, 9, 0.9),  # in a crowd of cats
    )
    matches = match_boxes(gt, dt)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1  # cat as cat
    expected[1, 0] = 1  # dog as cat
    expected[1, 3] = 1  # the other dog is not found
    expected[2, 3] = 1  # nor is the owl
    expected[3, 1] = expected[3, 0] = 1  # the dog on the cat, the second cat on the dog
    assert confusion_matrix(matches, 0.5).tolist() == expected.tolist()
    by_class = confusion_matrix(matches, np.array([0.5, 0.2, 0.5]))
    assert by_class[1, 1] == 1 and by_class[1, 3] == 0


@pytest.mark.parametrize("seed", range(4))
def test_every_box_and_detection_is_in_the_matrix_once(seed):
    gt, dt = random_case(seed)
    matches = match_boxes(gt, dt)
    table = confusion_matrix(matches, 0.3)
    counted = gt.labels[~gt.iscrowd]
    assert table[:-1].sum(axis=1).tolist() == np.bincount(counted, minlength=4)[1:].tolist()
    kept = matches.detections.scores > 0.3
    of_count = (matches.is_tp[0, 0] | matches.is_fp[0, 0]) & kept
    detected = np.bincount(matches.detections.labels[of_count], minlength=4)[1:]
    assert table[:, :-1].sum(axis=0).tolist() == detected.tolist()
    hits = matches.is_tp[0, 0] & kept
    assert np.trace(table) == hits.sum()
    assert table[-1, -1] == 0
