"""Where AP is lost, by the method of TIDE (Bolya et al. 2020), at IoU 0.5.

Every wrong detection gets one reason, every box that none of them could have found is missed.
What a reason costs is the AP that would be won if it alone were put right.
"""

from dataclasses import dataclass, replace

import numpy as np

from vision.evaluation.coco_arrays import RECALL_THRESHOLDS, Matches, find_overlaps
from vision.evaluation.thresholds import ALL_AREAS, AT_IOU

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
MEANINGS = (
    "right place, wrong class",
    "right class, IoU between 0.1 and 0.5",
    "wrong class and IoU between 0.1 and 0.5",
    "a second detection of a box that was found",
    "IoU below 0.1 with every box",
    "no detection near enough to be put right",
)
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
SIZE_EDGES = (0, 16, 32, 64, 128, np.inf)  # square roots of areas, pixels of the input
NONE = -1


@dataclass(frozen=True)
class ErrorAnalysis:
    """The reasons of all errors and their cost.

    Attributes:
        kinds: int64 [D], by detection of the Matches: one of the first five, or NONE.
        targets: int64 [D], the box that a classification or localisation error was about, or NONE.
        is_missed: bool [G].
        counts: int64 [6], errors of each kind.
        ap50: mean over the classes that have boxes; None where none has.
        gains: [6], AP50 won if the errors of one kind were put right; never below 0.
        gains_by_class: [6, C], the same of one class's AP50; NaN for one without boxes.
        gains_by_size: [6, S], if only those of a size were put right.
        counts_by_size: int64 [6, S].
    """

    kinds: np.ndarray
    targets: np.ndarray
    is_missed: np.ndarray
    counts: np.ndarray
    ap50: float | None
    gains: np.ndarray
    gains_by_class: np.ndarray
    gains_by_size: np.ndarray
    counts_by_size: np.ndarray


def analyse_errors(matches: Matches, input_scale: np.ndarray | None = None) -> ErrorAnalysis:
    """Find the reason of every error and what it costs.

    Args:
        matches: of the data set.
        input_scale: [I, 2], pixels of the network's input for one of the image, across and down;
            None: 1.
    """
    kinds, targets, is_missed = classify(matches)
    fixes = _Fixes(matches, kinds, targets, is_missed)
    by_class = np.array([fixes.gain(kind) for kind in range(len(KINDS))])  # [6, C]
    dt_sizes, gt_sizes = _sizes(matches, targets, input_scale)
    by_size = np.zeros((len(KINDS), len(SIZE_EDGES) - 1))
    counts_by_size = np.zeros(by_size.shape, np.int64)
    for kind in range(len(KINDS)):
        is_kind = is_missed if kind == MISSED else kinds == kind
        bins = np.digitize((gt_sizes if kind == MISSED else dt_sizes), SIZE_EDGES) - 1
        for b in range(len(SIZE_EDGES) - 1):
            chosen = is_kind & (bins == b)
            counts_by_size[kind, b] = chosen.sum()
            if chosen.any():
                by_size[kind, b] = _mean(fixes.gain(kind, chosen))
    has_boxes = fixes.num_gt > 0
    return ErrorAnalysis(
        kinds=kinds,
        targets=targets,
        is_missed=is_missed,
        counts=counts_by_size.sum(axis=1),
        ap50=float(fixes.base[has_boxes].mean()) if has_boxes.any() else None,
        gains=np.array([_mean(gains) for gains in by_class]),
        gains_by_class=by_class,
        gains_by_size=by_size,
        counts_by_size=counts_by_size,
    )


def gain_if_found(matches: Matches, chosen: np.ndarray) -> float:
    """Return the AP50 won if the boxes of `chosen` [G] had right detections above all others.

    TIDE's own gain of a missed box takes the box away, which wins nothing in a class of which
    nothing is found. This is the most that finding them could win.
    """
    return _mean(_Fixes(matches, *classify(matches)).gain_if_found(chosen))


def input_sizes(boxes_xywh: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the square root of each box's area in pixels of the input, [N].

    Args:
        boxes_xywh: [N, 4], pixels of the image.
        scale: [N, 2], pixels of the input for one of the image, across and down.
    """
    return np.sqrt(boxes_xywh[:, 2] * boxes_xywh[:, 3] * scale[:, 0] * scale[:, 1])


def classify(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the reason of every wrong detection, as the paper's section 2.2 defines them.

    Returns:
        The `kinds`, `targets` and `is_missed` of an ErrorAnalysis.
    """
    gt, dt = matches.ground_truth, matches.detections
    wrong = np.flatnonzero(matches.is_fp[ALL_AREAS, AT_IOU])
    counted = np.flatnonzero(~matches.gt_ignored[:, ALL_AREAS])
    counted = counted[np.argsort(gt.image_index[counted], kind="stable")]
    is_used = np.zeros(len(gt.labels), bool)
    is_used[matches.partners[matches.is_tp[ALL_AREAS, AT_IOU]]] = True

    boxes = replace(gt, boxes_xywh=gt.boxes_xywh[counted], iscrowd=gt.iscrowd[counted])
    dt_rows, gt_rows, ious = find_overlaps(
        boxes, gt.image_index[counted], dt.take(wrong), dt.image_index[wrong], lowest=BACKGROUND_IOU
    )
    gt_rows = counted[gt_rows]
    is_same = gt.labels[gt_rows] == dt.labels[wrong[dt_rows]]
    same, same_iou = _best(dt_rows, gt_rows, ious, is_same, len(wrong))
    other, other_iou = _best(dt_rows, gt_rows, ious, ~is_same, len(wrong))
    _, used_iou = _best(dt_rows, gt_rows, ious, is_same & is_used[gt_rows], len(wrong))
    reasons = np.select(
        [
            (same_iou >= BACKGROUND_IOU) & (same_iou <= FOREGROUND_IOU),
            other_iou >= FOREGROUND_IOU,
            used_iou >= FOREGROUND_IOU,
            np.maximum(same_iou, other_iou) <= BACKGROUND_IOU,
        ],
        [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    kinds, targets = np.full(len(dt), NONE), np.full(len(dt), NONE)
    kinds[wrong] = reasons
    choices = [reasons == LOCALISATION, reasons == CLASSIFICATION]
    targets[wrong] = np.select(choices, [same, other], NONE)
    is_missed = ~matches.gt_ignored[:, ALL_AREAS] & ~is_used
    is_missed[targets[targets != NONE]] = False
    return kinds, targets, is_missed


def _best(
    dt_rows: np.ndarray, gt_rows: np.ndarray, ious: np.ndarray, chosen: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the box and IoU of each detection's first pair that is `chosen`; NONE and 0 without.

    Pairs are sorted by detection, then falling IoU.
    """
    box, iou = np.full(count, NONE), np.zeros(count)
    rows, first = np.unique(dt_rows[chosen], return_index=True)
    box[rows], iou[rows] = gt_rows[chosen][first], ious[chosen][first]
    return box, iou


class _Fixes:
    """Computes each class's AP50 with some errors put right."""

    def __init__(
        self, matches: Matches, kinds: np.ndarray, targets: np.ndarray, is_missed: np.ndarray
    ):
        gt, dt = matches.ground_truth, matches.detections
        self.num_classes = gt.num_classes
        self.is_tp = matches.is_tp[ALL_AREAS, AT_IOU]
        self.counts = self.is_tp | matches.is_fp[ALL_AREAS, AT_IOU]
        self.labels, self.scores = dt.labels, dt.scores
        self.kinds, self.is_missed, self.gt_labels = kinds, is_missed, gt.labels
        self.num_gt = self._per_class(gt.labels[~matches.gt_ignored[:, ALL_AREAS]])
        self.target_labels = np.where(
            targets != NONE, gt.labels[targets] if len(gt.labels) else 0, 0
        )
        self.becomes_hit = self._best_of_each_box(matches, targets)
        self.order = self._sort(self.labels)
        self.base = self._ap(self.labels, self.is_tp, self.order, self.num_gt)

    def gain(self, kind: int, chosen: np.ndarray | None = None) -> np.ndarray:
        """Return what each class's AP50 gains, [C], NaN without boxes.

        Args:
            kind: which errors are put right.
            chosen: of these only some; bool [G] for MISSED, else bool [D].
        """
        if kind == MISSED:
            fixed = self.is_missed if chosen is None else chosen
            num_gt = self.num_gt - self._per_class(self.gt_labels[fixed])
            return self._ap(self.labels, self.is_tp, self.order, num_gt) - self.base
        fixed = self.kinds == kind if chosen is None else chosen
        hits = fixed & self.becomes_hit
        keep = ~fixed | hits
        labels, order = self.labels, self.order
        if kind == CLASSIFICATION:
            labels = np.where(hits, self.target_labels, labels)
            order = self._sort(labels)
        return self._ap(labels, self.is_tp | hits, order[keep[order]], self.num_gt) - self.base

    def gain_if_found(self, chosen: np.ndarray) -> np.ndarray:
        """Return what each class's AP50 gains, [C], with a hit more at the top for each box."""
        extra = self._per_class(self.gt_labels[chosen])
        found = self._ap(self.labels, self.is_tp, self.order, self.num_gt, extra)
        return found - self.base

    def _sort(self, labels: np.ndarray) -> np.ndarray:
        order = np.lexsort((-self.scores, labels))
        return order[self.counts[order]]

    def _best_of_each_box(self, matches: Matches, targets: np.ndarray) -> np.ndarray:
        """Bool [D]: the best of the errors about a box not found, the one that would find it."""
        is_used = np.zeros(len(matches.ground_truth.labels), bool)
        is_used[matches.partners[self.is_tp]] = True
        rows = np.flatnonzero(targets != NONE)
        rows = rows[~is_used[targets[rows]]]
        rows = rows[np.lexsort((-self.scores[rows], targets[rows]))]
        becomes_hit = np.zeros(len(targets), bool)
        becomes_hit[rows[np.unique(targets[rows], return_index=True)[1]]] = True
        return becomes_hit

    def _per_class(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=self.num_classes + 1)[1:]

    def _ap(
        self,
        labels: np.ndarray,
        is_tp: np.ndarray,
        order: np.ndarray,
        num_gt: np.ndarray,
        extra: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return each class's AP50, [C]; NaN for one without boxes.

        Args:
            labels: int64 [D], of the detections.
            is_tp: bool [D].
            order: int64, the detections that count, sorted by class and falling score.
            num_gt: [C], boxes of each class.
            extra: [C], hits of each class that come before its detections.
        """
        ends = np.searchsorted(labels[order], np.arange(1, self.num_classes + 2))
        found = np.full(self.num_classes, np.nan)
        for k in np.flatnonzero(self.num_gt):
            hits = is_tp[order[ends[k] : ends[k + 1]]]
            if extra is not None:
                hits = np.concatenate([np.ones(extra[k], bool), hits])
            found[k] = _average_precision(hits, int(num_gt[k]))
        return found


def _average_precision(is_tp: np.ndarray, num_gt: int) -> float:
    """Mean precision at COCO's 101 recalls of detections [N], best first; 0 without boxes."""
    places = np.flatnonzero(is_tp)
    if not num_gt or not len(places):
        return 0.0
    precision = np.arange(1, len(places) + 1) / (places + 1 + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    needed = np.searchsorted(np.arange(1, num_gt + 1) / num_gt, RECALL_THRESHOLDS)
    return float(envelope[needed[needed < len(places)]].sum() / len(RECALL_THRESHOLDS))


def _sizes(
    matches: Matches, targets: np.ndarray, input_scale: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes [D] of what each detection's error is about, and [G] of the boxes."""
    gt, dt = matches.ground_truth, matches.detections
    scale = np.ones((gt.num_images, 2)) if input_scale is None else input_scale
    gt_sizes = input_sizes(gt.boxes_xywh, scale[gt.image_index])
    dt_sizes = input_sizes(dt.boxes_xywh, scale[dt.image_index])
    has_target = targets != NONE
    dt_sizes[has_target] = gt_sizes[targets[has_target]]
    return dt_sizes, gt_sizes


def _mean(gains: np.ndarray) -> float:
    """Mean over the classes with boxes; less than 0 is noise of reading at 101 recalls."""
    gains = gains[~np.isnan(gains)]
    return max(0.0, float(gains.mean())) if len(gains) else 0.0
