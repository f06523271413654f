"""Where AP is lost: examples worked by hand, and the published package of the method."""

import numpy as np
import pytest
from detection_factory import found, random_case, truth

from vision.evaluation.coco_arrays import match_boxes
from vision.evaluation.coco_eval import evaluate_boxes
from vision.evaluation.errors import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    KINDS,
    LOCALISATION,
    MISSED,
    NONE,
    analyse_errors,
)
from vision.priors.coverage import best_prior_iou

HALF = 51 / 101  # AP of one of two boxes found: recalls 0 to 0.5
BOX = (0, 0, 10, 10)
FAR = (50, 50, 10, 10)
CAT, DOG = 1, 2

# name: boxes, detections, kinds by rows of detections, AP50, {kind: gain}
EXAMPLES = {
    "a box not quite there": (
        [(0, CAT, *BOX)], [(0, CAT, 0, 0, 10, 2.5, 0.9)],
        [LOCALISATION], 0, {LOCALISATION: 1},
    ),
    "the wrong class costs both classes": (
        # Dogs: wrong, right: precision 1/2. Put right, cat and dog have AP 1.
        [(0, CAT, *BOX), (1, DOG, *BOX)], [(0, DOG, *BOX, 0.9), (1, DOG, *BOX, 0.8)],
        [CLASSIFICATION, NONE], 0.25, {CLASSIFICATION: 0.75},
    ),
    "wrong class and place": (
        [(0, CAT, *BOX), (0, DOG, *FAR)],
        [(0, CAT, *BOX, 0.5), (0, DOG, 0, 0, 10, 3, 0.9), (0, DOG, *FAR, 0.8)],
        [NONE, BOTH, NONE], 0.75, {BOTH: 0.25},
    ),
    "a box found twice": (
        [(0, CAT, *BOX), (1, CAT, *BOX)],
        [(0, CAT, *BOX, 0.9), (0, CAT, 0, 0, 10, 9, 0.8), (1, CAT, *BOX, 0.7)],
        [NONE, DUPLICATE, NONE], (51 + 50 * 2 / 3) / 101, {DUPLICATE: 50 / 3 / 101},
    ),
    "something where nothing is": (
        [(0, CAT, *BOX)], [(0, CAT, *FAR, 0.9), (0, CAT, *BOX, 0.8)],
        [BACKGROUND, NONE], 0.5, {BACKGROUND: 0.5},
    ),
    "a box without a detection": (
        [(0, CAT, *BOX), (1, CAT, *BOX)], [(0, CAT, *BOX, 0.9)],
        [NONE], HALF, {MISSED: 1 - HALF},
    ),
    "of two errors about a box the better one finds it": (
        [(0, CAT, *BOX)], [(0, CAT, 0, 0, 10, 3, 0.6), (0, CAT, 0, 0, 10, 4, 0.7)],
        [LOCALISATION, LOCALISATION], 0, {LOCALISATION: 1},
    ),
    "a worse place for a box that is found is only taken away": (
        [(0, CAT, *BOX), (1, CAT, *BOX)],
        [(0, CAT, *BOX, 0.9), (0, CAT, 0, 0, 10, 4, 0.8), (1, CAT, *BOX, 0.7)],
        [NONE, LOCALISATION, NONE], (51 + 50 * 2 / 3) / 101, {LOCALISATION: 50 / 3 / 101},
    ),
    "what lies in a crowd is no error": (
        [(0, CAT, *BOX), (0, CAT, 100, 100, 50, 50, 1)],
        [(0, CAT, *BOX, 0.9), (0, CAT, 110, 110, 10, 10, 0.95)],
        [NONE, NONE], 1, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_worked_by_hand(name):
    boxes, detections, kinds, ap50, gains = EXAMPLES[name]
    matches = match_boxes(truth(*boxes), found(*detections))
    errors = analyse_errors(matches)
    by_row = np.empty(len(detections), int)
    by_row[matches.rows] = errors.kinds
    assert by_row.tolist() == kinds
    assert errors.ap50 == pytest.approx(ap50)
    expected = [gains.get(kind, 0) for kind in range(len(KINDS))]
    assert errors.gains == pytest.approx(expected, abs=1e-12)


def test_gains_by_class_and_by_size_of_the_input():
    """Cats are missed, one of 10 px and one of 40 px; dogs are found twice."""
    gt = truth((0, CAT, *BOX), (0, CAT, 100, 0, 40, 40), (1, DOG, *BOX), (0, DOG, 200, 200, 10, 10))
    dt = found(
        (1, DOG, *BOX, 0.9), (1, DOG, 0, 0, 10, 9, 0.8), (0, DOG, 200, 200, 10, 10, 0.7)
    )  # fmt: skip
    errors = analyse_errors(match_boxes(gt, dt), np.array([[2.0, 2.0], [0.5, 2.0]]))
    duplicate = 50 / 3 / 101
    assert errors.gains_by_class[MISSED, :2] == pytest.approx([0, 0])  # none found, none right
    assert errors.gains_by_class[DUPLICATE, :2] == pytest.approx([0, duplicate])
    assert np.isnan(errors.gains_by_class[:, 2]).all()
    # 20 and 80 px for the missed; the doubled box of 10 by 9 keeps its area: under 16 px.
    assert errors.counts_by_size[MISSED].tolist() == [0, 1, 0, 1, 0]
    assert errors.counts_by_size[DUPLICATE].tolist() == [1, 0, 0, 0, 0]
    assert errors.gains_by_size[DUPLICATE] == pytest.approx([duplicate / 2, 0, 0, 0, 0])


@pytest.mark.parametrize("seed", range(6))
def test_every_wrong_detection_has_one_reason_and_ap50_is_cocos(seed):
    gt, dt = random_case(seed)
    matches = match_boxes(gt, dt)
    errors = analyse_errors(matches)
    assert ((errors.kinds == NONE) == ~matches.is_fp[0, 0]).all()
    assert errors.counts[:MISSED].sum() == matches.is_fp[0, 0].sum()
    metrics = evaluate_boxes(gt, dt, class_names=["a", "b", "c"])
    assert errors.ap50 == pytest.approx(metrics["AP50"], abs=1e-12)
    assert errors.counts.min() > 0  # the case has errors of every kind


@pytest.mark.parametrize("seed", range(8))
def test_the_published_package_says_the_same(seed, monkeypatch):
    """Without crowds, which it looks at after the errors, and with boxes of every class.

    It reads precision at x / 100, and COCO at numpy.linspace(0, 1, 101), which differs in the last
    bit for some: on its recalls the numbers are equal.
    """
    tide = pytest.importorskip("tidecv")
    monkeypatch.setattr("vision.evaluation.errors.RECALL_THRESHOLDS", np.arange(101) / 100)
    gt, dt = random_case(seed, num_images=20, crowds=False)
    boxes, detections = tide.Data("boxes"), tide.Data("detections")
    for image, label, box in zip(gt.image_index, gt.labels, gt.boxes_xywh, strict=True):
        boxes.add_ground_truth(int(image), int(label), box.tolist())
    columns = (dt.image_index, dt.labels, dt.scores, dt.boxes_xywh)
    for image, label, score, box in zip(*columns, strict=True):
        detections.add_detection(int(image), int(label), float(score), box.tolist())
    run = tide.TIDE().evaluate(boxes, detections, mode=tide.TIDE.BOX)
    theirs = {type(e).short_name: 0 for e in run.errors}
    for error in run.errors:
        theirs[type(error).short_name] += 1
    order = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    ours = analyse_errors(match_boxes(gt, dt))
    assert ours.ap50 * 100 == pytest.approx(run.ap)
    assert ours.counts.tolist() == [theirs.get(name, 0) for name in order]
    gains = {kind.short_name: gain for kind, gain in run.fix_main_errors().items()}
    assert (100 * ours.gains).tolist() == pytest.approx([gains[name] for name in order], abs=1e-9)


def test_without_boxes_or_detections():
    empty = analyse_errors(match_boxes(truth(), found()))
    assert empty.ap50 is None and empty.counts.tolist() == [0] * 6
    noise = analyse_errors(match_boxes(truth(), found((0, CAT, *BOX, 0.9))))
    assert noise.counts[BACKGROUND] == 1 and noise.gains[BACKGROUND] == 0


def test_the_best_prior_of_a_box():
    priors = np.array([[0.5, 0.5, 0.2, 0.2], [0.25, 0.25, 0.5, 0.5]])
    boxes = np.array(
        [[0.4, 0.4, 0.6, 0.6], [0, 0, 0.5, 0.25], [0.9, 0.9, 1, 1], [0.3, 0.3, 0.3, 0.4]]
    )
    assert best_prior_iou(boxes, priors).tolist() == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    assert best_prior_iou(boxes[:0], priors).tolist() == []
