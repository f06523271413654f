"""What a detector outside of torch is worth: run on each image of a split, measured as by COCO."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vision.datasets.image_files import read_image
from vision.datasets.join_classes import source_with_classes
from vision.datasets.layouts.layout import Source
from vision.engine.metrics import show_progress
from vision.evaluation.coco_arrays import match_boxes
from vision.evaluation.coco_boxes import (
    Detections,
    GroundTruth,
    ground_truth_from_index,
)
from vision.evaluation.coco_eval import evaluate_boxes

# Of precision and recall, and what files recommend: detectNet's default.
SCORE_THRESHOLD = 0.5


class FoundBoxes(Protocol):
    """What a detector finds in an image."""

    xyxy: np.ndarray  # [N, 4], pixels
    confidence: np.ndarray  # [N]
    class_id: np.ndarray  # [N], labels 1..C


@dataclass
class Measurement:
    """What a detector is worth on a split.

    Attributes:
        metrics: those of `evaluate_boxes`, and `precision` and `recall` at `score_threshold`.
        ap_at_threshold: AP of the boxes from `score_threshold` on.
        detections: of all images.
        ground_truth: what they are compared with.
        source: the split, with the detector's classes.
        category_ids: the annotations' ids of labels 1..C.
        milliseconds: median time of an image, without reading it.
    """

    metrics: dict
    ap_at_threshold: float | None
    detections: Detections
    ground_truth: GroundTruth
    source: Source
    category_ids: list[int]
    milliseconds: float


def measure(
    predict: Callable[[np.ndarray], FoundBoxes],
    source: Source,
    class_names: list[str],
    *,
    score_threshold: float = SCORE_THRESHOLD,
    evaluator: str = "fast",
) -> Measurement:
    """Run a detector over the images of a split, one at a time.

    Args:
        predict: from uint8 [H, W, 3] RGB to what is there.
        source: the split.
        class_names: of labels 1..C.
        score_threshold: of precision and recall.
        evaluator: a name of `coco_eval.EVALUATORS`.

    Raises:
        ValueError: the split has no images, other classes, or an image that cannot be read.
        OSError: an image cannot be opened.
    """
    source = source_with_classes(source, class_names)
    index = source.index
    if not len(index):
        raise ValueError(f"{index.annotation_file}: it lists no images")
    parts, seconds = [], []
    for i in show_progress(range(len(index)), "measure"):
        path = Path(source.image_folder) / index.file_name(i)
        image = read_image(path, size=tuple(index.sizes[i].tolist()))
        start = time.perf_counter()
        found = predict(image)
        seconds.append(time.perf_counter() - start)
        parts.append(_to_arrays(found, i))
    truth = ground_truth_from_index(index)
    detections = truth.counted(Detections.concatenate(parts))
    metrics = evaluate_boxes(truth, detections, class_names=class_names, evaluator=evaluator)
    metrics |= thresholded(truth, detections, score_threshold=score_threshold)
    remaining = detections.take(detections.scores >= score_threshold)
    return Measurement(
        metrics=metrics,
        ap_at_threshold=evaluate_boxes(truth, remaining, class_names=class_names)["AP"],
        detections=detections,
        ground_truth=truth,
        source=source,
        category_ids=[category.category_id for category in index.categories],
        milliseconds=float(np.median(seconds)) * 1e3,
    )


def thresholded(
    ground_truth: GroundTruth, detections: Detections, *, score_threshold: float
) -> dict[str, float | None]:
    """Count the right ones of the boxes from a score on: matched at IoU 0.5, all classes together.

    Of a class in an image the 100 best count, as everywhere in COCO.

    Returns:
        `precision`, the share of detections that are right, None where there is none; `recall`,
        the share of ground truth that is found, None where there is none; and `score_threshold`.
    """
    matches = match_boxes(ground_truth, detections.take(detections.scores >= score_threshold))
    num_tp, num_fp = int(matches.is_tp[0, 0].sum()), int(matches.is_fp[0, 0].sum())
    num_gt = int((~matches.gt_ignored[:, 0]).sum())
    return {
        "precision": num_tp / (num_tp + num_fp) if num_tp + num_fp else None,
        "recall": num_tp / num_gt if num_gt else None,
        "score_threshold": score_threshold,
    }


def _to_arrays(found: FoundBoxes, position: int) -> Detections:
    boxes = found.xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        image_index=np.full(len(boxes), position, np.int64),
        labels=found.class_id.astype(np.int64),
        boxes_xywh=boxes,
        scores=found.confidence.astype(np.float64),
    )
