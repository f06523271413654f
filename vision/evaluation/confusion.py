"""What is taken for what: the confusion matrix at a score threshold."""

from dataclasses import replace

import numpy as np

from vision.evaluation.coco_arrays import IOU_THRESHOLDS, Matches, find_overlaps
from vision.evaluation.thresholds import ALL_AREAS, AT_IOU


def confusion_matrix(matches: Matches, threshold: float | np.ndarray) -> np.ndarray:
    """Count boxes by their class and by what they were detected as, at IoU 0.5.

    First come the evaluator's own hits. Of what is left, best score first, each detection takes
    the free box of another class that it overlaps most. So a box counts once, and a second
    detection of a box is one of the background. Crowds and what lies in them do not count.

    Args:
        matches: of the data set.
        threshold: detections score more; one number, or [C], one a class.

    Returns:
        int64 [C + 1, C + 1]: rows are the boxes' classes, columns the detections'. The last row is
        the background, detected as something; the last column is boxes not found.
    """
    background = matches.ground_truth.num_classes
    table = np.zeros((background + 1, background + 1), np.int64)
    for truth, seen in zip(*_pair_up(matches, threshold), strict=True):
        np.add.at(table, (truth, seen), 1)
    return table


def _pair_up(matches: Matches, threshold: float | np.ndarray) -> tuple[list, list]:
    """Return classes of boxes and of detections, in four parts, from 0; C is the background."""
    gt, dt = matches.ground_truth, matches.detections
    background = np.array(gt.num_classes)
    limits = np.broadcast_to(threshold, gt.num_classes)
    kept = dt.scores > limits[dt.labels - 1]
    hits = np.flatnonzero(matches.is_tp[ALL_AREAS, AT_IOU] & kept)
    wrong, taken = _take_other_classes(matches, kept)
    found = np.zeros(len(gt.labels), bool)
    found[matches.partners[hits]] = True
    found[taken] = True
    missed = np.flatnonzero(~found & ~matches.gt_ignored[:, ALL_AREAS])
    invented = matches.is_fp[ALL_AREAS, AT_IOU] & kept
    invented[wrong] = False
    true_labels = [gt.labels[matches.partners[hits]] - 1, gt.labels[taken] - 1]
    seen_labels = [dt.labels[hits] - 1, dt.labels[wrong] - 1]
    return (
        [*true_labels, gt.labels[missed] - 1, background],
        [*seen_labels, background, dt.labels[invented] - 1],
    )


def _take_other_classes(matches: Matches, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair wrong detections with free boxes of other classes, best score first."""
    gt, dt = matches.ground_truth, matches.detections
    is_free = ~matches.gt_ignored[:, ALL_AREAS]
    is_free[matches.partners[matches.is_tp[ALL_AREAS, AT_IOU] & kept]] = False
    boxes = np.flatnonzero(is_free)
    boxes = boxes[np.argsort(gt.image_index[boxes], kind="stable")]
    wrong = np.flatnonzero(matches.is_fp[ALL_AREAS, AT_IOU] & kept)
    wrong = wrong[np.argsort(-dt.scores[wrong], kind="stable")]
    free = replace(gt, boxes_xywh=gt.boxes_xywh[boxes], iscrowd=gt.iscrowd[boxes])
    pairs = find_overlaps(
        free, gt.image_index[boxes], dt.take(wrong), dt.image_index[wrong],
        lowest=IOU_THRESHOLDS[AT_IOU],
    )  # fmt: skip
    detections, taken, used, busy = [], [], set(), set()
    # One by one: what a detection can take depends on all before it. These are few.
    for detection, box in zip(wrong[pairs[0]].tolist(), boxes[pairs[1]].tolist(), strict=True):
        if detection not in used and box not in busy:
            used.add(detection)
            busy.add(box)
            detections.append(detection)
            taken.append(box)
    return np.array(detections, int), np.array(taken, int)
