"""How far the COCO numbers may be off: bootstrap over the images (Efron and Tibshirani 1993).

Detections are matched once. A resample draws as many images as there are, with replacement, so an
image counts as often as it was drawn; precision and recall are then weighted cumulative sums. That
is exact: evaluating a data set in which the image lies that many times gives the same numbers.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vision.evaluation.coco_arrays import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    Matches,
    outside_areas,
)
from vision.evaluation.coco_eval import PRECISIONS, RECALLS

NUM_RESAMPLES = 500
LEVEL = 0.95
MIN_IMAGES = 2  # one image is always drawn: no spread to see
_AT_ONCE = 2_000_000  # detections times resamples: 16 MB an array


@dataclass
class Resamples:
    """The numbers of every resample; NaN where no class has a box in it.

    Attributes:
        metrics: the twelve names -> [R].
        per_class: AP and AP50 by class, name -> [R, C].
    """

    metrics: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]


def draw_weights(
    num_images: int, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Return how often each image is drawn in each resample, int32 [R, I].

    The same seed draws the same images: two runs are compared on one drawing.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((num_resamples, num_images), np.int32)
    for row in weights:
        row[:] = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
    return weights


def resample(matches: Matches, weights: np.ndarray) -> Resamples:
    """Compute the twelve numbers with images counted by `weights`, int [R, I]."""
    shape = (len(weights), matches.ground_truth.num_classes)
    found = {name: np.full(shape, np.nan) for name in (*PRECISIONS, *RECALLS)}
    inside = ~outside_areas(_areas(matches))  # [D, A]

    def resample_class(k: int) -> None:
        """Write the numbers of the class in column k of `found`, for all resamples."""
        rows = _best_first(matches, k + 1)
        num_gt = _count_ground_truth(matches, k + 1, weights)  # [R, A]
        step = max(1, _AT_ONCE // max(1, len(rows)))
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            drawn = weights[part][:, matches.detections.image_index[rows]]  # [R', D]
            values = _average_precisions(matches, rows, inside[rows], drawn, num_gt[part])
            values |= _recalls(matches, rows, drawn, num_gt[part])
            for name in values:
                found[name][part, k] = values[name]

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(resample_class, range(shape[1])))  # NumPy releases the GIL
    means = {name: _mean_over_classes(values) for name, values in found.items()}
    return Resamples(means, {name: found[name] for name in ("AP", "AP50")})


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the percentile interval of one number's resamples [R]; None where it has no value."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def confidence_intervals(
    matches: Matches, class_names: list[str], *, num_resamples: int = NUM_RESAMPLES
) -> dict:
    """Give the 95 % interval of each of the twelve numbers, and of AP and AP50 of each class.

    Returns:
        name -> (low, high) or None, and `per_class`: class -> {AP, AP50}; all None for fewer than
        MIN_IMAGES images.
    """
    num_images = matches.ground_truth.num_images
    if num_images < MIN_IMAGES:
        empty = {name: None for name in ("AP", "AP50")}
        return {
            **dict.fromkeys([*PRECISIONS, *RECALLS]),
            "per_class": {name: dict(empty) for name in class_names},
        }
    drawn = resample(matches, draw_weights(num_images, num_resamples=num_resamples))
    return {
        **{name: interval(values) for name, values in drawn.metrics.items()},
        "per_class": {
            name: {key: interval(values[:, k]) for key, values in drawn.per_class.items()}
            for k, name in enumerate(class_names)
        },
    }


def _areas(matches: Matches) -> np.ndarray:
    return matches.detections.boxes_xywh[:, 2] * matches.detections.boxes_xywh[:, 3]


def _best_first(matches: Matches, label: int) -> np.ndarray:
    """Places of a class's detections, best score first, in the evaluator's order of ties."""
    start, stop = np.searchsorted(matches.detections.labels, [label, label + 1])
    return start + np.argsort(-matches.detections.scores[start:stop], kind="stable")


def _count_ground_truth(matches: Matches, label: int, weights: np.ndarray) -> np.ndarray:
    """Count the boxes of a class that each resample has in each area range, int64 [R, A]."""
    gt = matches.ground_truth
    start, stop = np.searchsorted(gt.labels, [label, label + 1])
    counts = (~matches.gt_ignored[start:stop]).astype(np.int64)  # [G, A]
    return weights[:, gt.image_index[start:stop]] @ counts


def _average_precisions(
    matches: Matches, rows: np.ndarray, inside: np.ndarray, drawn: np.ndarray, num_gt: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute one class's AP by name of PRECISIONS, each [R].

    Args:
        matches: of the data set.
        rows: the class's detections, best first.
        inside: bool [D, A], those of an area in the range.
        drawn: int32 [R, D], how often each detection's image was drawn.
        num_gt: [R, A].
    """
    found = {}
    for a, area in enumerate(AREA_RANGES):
        in_area = np.flatnonzero(inside[:, a] | matches.is_tp[a][:, rows].any(axis=0))
        rows_in, drawn_in = rows[in_area], drawn[:, in_area]
        counts = inside[in_area, a]
        seen = np.cumsum(drawn_in * counts, axis=1, dtype=np.int32)
        by_iou = [
            _curve_mean(
                matches.is_tp[a, t, rows_in],
                counts & ~matches.is_fp[a, t, rows_in],
                drawn_in,
                seen,
                num_gt[:, a],
            )
            for t in range(len(IOU_THRESHOLDS))
        ]
        for name, (iou, of_area, _) in PRECISIONS.items():
            if of_area == area:
                chosen = np.isclose(IOU_THRESHOLDS, iou) if iou else slice(None)
                found[name] = np.mean(np.array(by_iou)[chosen], axis=0)
    return found


def _curve_mean(
    is_tp: np.ndarray,
    is_exempt: np.ndarray,
    drawn: np.ndarray,
    seen: np.ndarray,
    num_gt: np.ndarray,
) -> np.ndarray:
    """Return the mean precision over the recall thresholds, [R]; NaN without a box.

    Precision is read at true positives alone. The false positives before one are the detections
    seen in the area range until then less those that are no false positives: few, so that the
    dense sums are made once for all IoU thresholds.

    Args:
        is_tp: bool [D].
        is_exempt: bool [D]: counted in `seen`, but no false positive.
        drawn: int32 [R, D].
        seen: int32 [R, D], the sums of `drawn` over the area range.
        num_gt: [R].
    """
    events = np.flatnonzero(is_tp | is_exempt)
    if not len(events):
        return np.where(num_gt > 0, 0.0, np.nan)
    counts = drawn[:, events]
    num_tp = np.cumsum(counts * is_tp[events], axis=1)
    num_fp = seen[:, events] - np.cumsum(counts * is_exempt[events], axis=1)
    is_hit = is_tp[events]
    num_tp, num_fp = num_tp[:, is_hit].astype(float), num_fp[:, is_hit]
    if not num_tp.shape[1]:
        return np.where(num_gt > 0, 0.0, np.nan)
    precision = num_tp / (num_fp + num_tp + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = num_tp / num_gt[:, None]
    reached = _count_reached(recall)
    reached[num_tp == 0] = 0  # recall 0 needs a true positive, too
    reached[:, 1:] -= reached[:, :-1].copy()
    mean = (envelope * reached).sum(axis=1) / len(RECALL_THRESHOLDS)
    return np.where(num_gt > 0, mean, np.nan)


def _count_reached(recall: np.ndarray) -> np.ndarray:
    """Count the recall thresholds up to each recall in 0..1, a fifth of searchsorted's time."""
    last = len(RECALL_THRESHOLDS) - 1
    reached = (np.nan_to_num(recall, posinf=0) * last).astype(np.int32) + 1
    # The product's rounding may have gone past a threshold, or stopped short of one.
    next_one = np.append(RECALL_THRESHOLDS, np.inf)
    reached += next_one[reached] <= recall
    reached -= RECALL_THRESHOLDS[reached - 1] > recall
    return reached


def _recalls(
    matches: Matches, rows: np.ndarray, drawn: np.ndarray, num_gt: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute one class's recall, the mean over the IoU thresholds, by name of RECALLS."""
    found = {}
    for name, (_, area, limit) in RECALLS.items():
        a = list(AREA_RANGES).index(area)
        hits = matches.is_tp[a][:, rows].mean(axis=0) * (matches.ranks[rows] < limit)  # [D]
        hit = np.flatnonzero(hits)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = (drawn[:, hit] @ hits[hit]) / num_gt[:, a]
        found[name][num_gt[:, a] == 0] = np.nan
    return found


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean of [R, C] over the classes that have boxes; NaN where none has."""
    has_value = ~np.isnan(values)
    total = np.where(has_value, values, 0).sum(axis=1)
    return np.divide(
        total, has_value.sum(axis=1), out=np.full(len(values), np.nan), where=has_value.any(axis=1)
    )


@dataclass(frozen=True)
class Difference:
    """One number of the second run less that of the first, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0 or self.high < 0


def paired_differences(
    first: Matches,
    second: Matches,
    class_names: list[str],
    *,
    num_resamples: int = NUM_RESAMPLES,
) -> dict:
    """Compare two runs on the same images, drawing the same ones for both.

    What makes an image hard is hard for both, so the interval of the difference is narrower than
    the two runs' own intervals.

    Returns:
        name -> Difference or None, of the twelve numbers, and `per_class`: class -> that of AP.
        None where a run has no value, and for fewer than MIN_IMAGES images.
    """
    num_images = first.ground_truth.num_images
    everything = np.ones((1, num_images), np.int32)
    drawn = draw_weights(num_images, num_resamples=num_resamples)
    weights = np.concatenate([everything, drawn if num_images >= MIN_IMAGES else drawn[:0]])
    before, after = resample(first, weights), resample(second, weights)
    found: dict = {
        name: _difference(after.metrics[name] - values) for name, values in before.metrics.items()
    }
    by_class = after.per_class["AP"] - before.per_class["AP"]
    found["per_class"] = {name: _difference(by_class[:, k]) for k, name in enumerate(class_names)}
    return found


def _difference(values: np.ndarray) -> Difference | None:
    """Read the first of [1 + R] values as the difference, the others as its resamples."""
    ends = interval(values[1:])
    return None if ends is None or np.isnan(values[0]) else Difference(float(values[0]), *ends)
