"""Which score to ask for: precision, recall and F1 over the threshold; what a score is worth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vision.evaluation.coco_arrays import AREA_RANGES, Matches

AT_IOU = 0  # place of IoU 0.5 in IOU_THRESHOLDS
ALL_AREAS = list(AREA_RANGES).index("all")
NUM_BINS = 10
# A class whose best F1 is lower has no threshold of its own: where one detection in a thousand is
# right, a device would show all thousand.
LEAST_F1 = 0.1


@dataclass(frozen=True)
class Choice:
    """A threshold, and what the detections with a higher score are worth at IoU 0.5."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ScoreCurve:
    """What is found as the threshold falls, at IoU 0.5; point i keeps all of `scores[i]` or more.

    Attributes:
        scores: [N], falling, each once.
        num_tp: int64 [N], right among those kept.
        num_fp: int64 [N], wrong ones.
        num_gt: boxes there are.
    """

    scores: np.ndarray
    num_tp: np.ndarray
    num_fp: np.ndarray
    num_gt: int

    @property
    def precision(self) -> np.ndarray:
        """[N]."""
        return self.num_tp / (self.num_tp + self.num_fp)

    @property
    def recall(self) -> np.ndarray:
        """[N]; 0 where there is no box."""
        return self.num_tp / max(1, self.num_gt)

    @property
    def f1(self) -> np.ndarray:
        """[N], 2 tp / (detections + boxes)."""
        return 2 * self.num_tp / (self.num_tp + self.num_fp + self.num_gt)

    def best_f1(self) -> Choice | None:
        """Choose the threshold of the highest F1; None where nothing right was found."""
        if not len(self.scores) or not self.num_tp[-1]:
            return None
        return self._choice(int(np.argmax(self.f1)))

    def at_precision(self, wanted: float) -> Choice | None:
        """Choose the threshold of the highest recall whose precision is `wanted` or more."""
        good = np.flatnonzero((self.precision >= wanted) & (self.num_tp > 0))
        return self._choice(int(good[-1])) if len(good) else None

    def at(self, threshold: float) -> Choice:
        """Say what a given threshold is worth."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="left"))
        if not kept:
            return Choice(threshold, 0.0, 0.0, 0.0)
        return self._choice(kept - 1, threshold)

    def _choice(self, i: int, threshold: float | None = None) -> Choice:
        if threshold is None:
            # Halfway to the next score: the same for "more than" and for "or more".
            next_score = self.scores[i + 1] if i + 1 < len(self.scores) else 0.0
            threshold = float(self.scores[i] + next_score) / 2
        values = (array[i] for array in (self.precision, self.recall, self.f1))
        return Choice(threshold, *map(float, values))


def score_curve(matches: Matches, label: int | None = None) -> ScoreCurve:
    """Order the detections of a class, or with None of all classes, by score."""
    dt, gt = matches.detections, matches.ground_truth
    is_tp = matches.is_tp[ALL_AREAS, AT_IOU]
    counts = is_tp | matches.is_fp[ALL_AREAS, AT_IOU]
    is_box = ~matches.gt_ignored[:, ALL_AREAS]
    if label is not None:
        counts, is_box = counts & (dt.labels == label), is_box & (gt.labels == label)
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(-dt.scores[rows], kind="stable")]
    scores, num_tp = dt.scores[rows], np.cumsum(is_tp[rows])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    return ScoreCurve(scores[last], num_tp[last], last + 1 - num_tp[last], int(is_box.sum()))


@dataclass(frozen=True)
class ClassThresholds:
    """Two scores to ask for of a class; None where none is good enough: see LEAST_F1."""

    best_f1: Choice | None
    at_precision: Choice | None

    def scores(self) -> dict[str, float]:
        """Return those that there are by name, as checkpoints and exported files keep them."""
        return {name: round(choice.threshold, 4) for name, choice in vars(self).items() if choice}


def preferred(scores: Mapping[str, float]) -> float | None:
    """Choose of `ClassThresholds.scores`: a precision that was asked for, else the best F1."""
    return scores.get("at_precision", scores.get("best_f1"))


def class_thresholds(
    matches: Matches, num_classes: int, *, precision: float | None = None
) -> list[ClassThresholds]:
    """Choose the thresholds of labels 1..C.

    Args:
        matches: of detections with low scores too.
        num_classes: C.
        precision: wanted of `at_precision`; None: it is not looked for.
    """
    curves = [score_curve(matches, label) for label in range(1, num_classes + 1)]
    best = [curve.best_f1() for curve in curves]
    return [
        ClassThresholds(
            choice if choice and choice.f1 >= LEAST_F1 else None,
            None if precision is None else curve.at_precision(precision),
        )
        for choice, curve in zip(best, curves, strict=True)
    ]


@dataclass(frozen=True)
class Calibration:
    """Score against hit rate (Guo et al. 2017), in bins of equal width.

    Attributes:
        edges: [B + 1], of the scores.
        counts: int64 [B], detections.
        mean_scores: [B], NaN where there is none.
        hit_rates: [B], the share that is right at IoU 0.5.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_scores: np.ndarray
    hit_rates: np.ndarray

    @property
    def error(self) -> float | None:
        """Mean distance of score and hit rate over the detections (ECE); None without any."""
        seen = self.counts > 0
        if not seen.any():
            return None
        gaps = np.abs(self.mean_scores - self.hit_rates)[seen]
        return float(np.average(gaps, weights=self.counts[seen]))


def calibrate(matches: Matches) -> Calibration:
    """Compare the scores of all detections that count with how many are right."""
    is_tp = matches.is_tp[ALL_AREAS, AT_IOU]
    counted = is_tp | matches.is_fp[ALL_AREAS, AT_IOU]
    scores, is_tp = matches.detections.scores[counted], is_tp[counted]
    bins = np.clip((scores * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, weights=w, minlength=NUM_BINS) for w in (scores, is_tp)]
    with np.errstate(invalid="ignore"):
        mean_scores, hit_rates = (total / counts for total in sums)
    return Calibration(np.linspace(0, 1, NUM_BINS + 1), counts, mean_scores, hit_rates)
