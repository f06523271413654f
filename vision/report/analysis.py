"""Everything that the report states of a validation, computed once and only where it is asked."""

from functools import cached_property

import numpy as np

from vision.evaluation.bootstrap import confidence_intervals
from vision.evaluation.coco_arrays import Matches, accumulate, match_boxes
from vision.evaluation.confusion import confusion_matrix
from vision.evaluation.errors import (
    KINDS,
    SIZE_EDGES,
    ErrorAnalysis,
    analyse_errors,
    input_sizes,
)
from vision.evaluation.thresholds import ALL_AREAS, Calibration, ScoreCurve, calibrate, score_curve
from vision.priors.coverage import MATCHED_FROM
from vision.report.inputs import Validation


class Analysis:
    """What is worked out from one validation.

    Attributes:
        given: the validation.
        names: class names of labels 1..C.
        num_images: of the validation.
    """

    def __init__(self, given: Validation):
        self.given = given
        self.names = given.class_names
        self.num_images = given.ground_truth.num_images

    @cached_property
    def matches(self) -> Matches:
        """The evaluator's matching."""
        return match_boxes(self.given.ground_truth, self.given.detections)

    @cached_property
    def intervals(self) -> dict:
        """95 % intervals, see `confidence_intervals`."""
        return confidence_intervals(self.matches, self.names)

    @cached_property
    def precision(self) -> np.ndarray:
        """Precision [T, R, C] in the whole area range; -1 for a class without boxes."""
        return accumulate(self.matches)[0][..., ALL_AREAS, -1]

    @cached_property
    def curve(self) -> ScoreCurve:
        """Of all classes together."""
        return score_curve(self.matches)

    @cached_property
    def class_curves(self) -> list[ScoreCurve]:
        """Of labels 1..C."""
        return [score_curve(self.matches, k + 1) for k in range(len(self.names))]

    @cached_property
    def threshold(self) -> float:
        """The score of the best F1 over all classes; 0.5 where nothing right was found."""
        best = self.curve.best_f1()
        return best.threshold if best else 0.5

    @cached_property
    def class_thresholds(self) -> np.ndarray:
        """[C], each class's own best, or `threshold` where nothing of it was found."""
        best = [curve.best_f1() for curve in self.class_curves]
        return np.array([choice.threshold if choice else self.threshold for choice in best])

    @cached_property
    def calibration(self) -> Calibration:
        """Score against hit rate."""
        return calibrate(self.matches)

    @cached_property
    def confusion(self) -> np.ndarray:
        """[C + 1, C + 1] at `threshold`."""
        return confusion_matrix(self.matches, self.threshold)

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """(height, width) of each image, [I, 2]."""
        return np.concatenate([index.sizes for index, _ in self.given.sources])

    @cached_property
    def input_scale(self) -> np.ndarray:
        """Pixels of the input, or of a tile's, for one of each image, across and down, [I, 2]."""
        return (np.array(self.given.network.photo_size) / np.maximum(self.image_sizes, 1))[:, ::-1]

    @cached_property
    def errors(self) -> ErrorAnalysis:
        """Where AP50 is lost."""
        return analyse_errors(self.matches, self.input_scale)

    @cached_property
    def is_box(self) -> np.ndarray:
        """Bool [G]: boxes of `matches.ground_truth` that count."""
        return ~self.matches.gt_ignored[:, ALL_AREAS]

    @cached_property
    def num_boxes(self) -> int:
        """Boxes that count."""
        return int(self.is_box.sum())

    @cached_property
    def box_sizes(self) -> np.ndarray:
        """Square roots of the boxes' areas in pixels of the input, [G]."""
        gt = self.matches.ground_truth
        return input_sizes(gt.boxes_xywh, self.input_scale[gt.image_index])

    @property
    def has_priors(self) -> bool:
        """Whether the network's priors are known; those of an exported file are not."""
        return self.given.network.priors_cxcywh is not None

    @cached_property
    def prior_ious(self) -> np.ndarray:
        """IoU of each box with its best prior, [G]; only where `has_priors`."""
        gt = self.matches.ground_truth
        shares = relative_boxes(gt.boxes_xywh, self.image_sizes[gt.image_index])
        return self.given.network.prior_ious(shares)

    def is_covered(self) -> np.ndarray:
        """Bool [G]: some prior has an IoU of MATCHED_FROM or more with the box."""
        return self.prior_ious >= MATCHED_FROM

    def size_bins(self) -> np.ndarray:
        """int64 [G]: the bin of SIZE_EDGES that each box is in."""
        return np.digitize(self.box_sizes, SIZE_EDGES) - 1

    def largest_losses(self) -> list[tuple[str, float, int]]:
        """(kind, AP50 to win, count) of every kind of error that costs, the costliest first."""
        gains, counts = self.errors.gains, self.errors.counts
        order = np.argsort(-gains, kind="stable")
        return [(KINDS[i], float(gains[i]), int(counts[i])) for i in order if gains[i] > 0]

    def worst_classes(self, count: int) -> list[tuple[str, float]]:
        """(name, AP) of the classes with the lowest AP, worst first, of those that have boxes."""
        rows = [(name, row["AP"]) for name, row in self.given.metrics["per_class"].items()]
        rows = [(name, ap) for name, ap in rows if ap is not None]
        return sorted(rows, key=lambda row: row[1])[:count]


def relative_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Turn pixels into shares of the image: xyxy in 0..1.

    Args:
        boxes_xywh: [N, 4], pixels.
        sizes: [N, 2], (height, width) of their images.
    """
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    return (corners / np.tile(sizes[:, ::-1], 2)).clip(0, 1)
