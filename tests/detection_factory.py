"""Small data sets of boxes and detections for the tests of evaluation and report."""

import numpy as np

from vision.evaluation.coco_boxes import Detections, GroundTruth


def truth(*rows: tuple, num_images: int = 2, num_classes: int = 3) -> GroundTruth:
    """Ground truth from rows (image, label, x, y, w, h[, iscrowd])."""
    table = np.array([(*row, 0)[:7] for row in rows], float).reshape(-1, 7)
    return GroundTruth(
        num_images=num_images,
        num_classes=num_classes,
        image_index=table[:, 0].astype(int),
        labels=table[:, 1].astype(int),
        boxes_xywh=table[:, 2:6],
        areas=table[:, 4] * table[:, 5],
        iscrowd=table[:, 6].astype(bool),
    )


def found(*rows: tuple) -> Detections:
    """Detections from rows (image, label, x, y, w, h, score)."""
    table = np.array(rows, float).reshape(-1, 7)
    labels = table[:, 1].astype(int)
    return Detections(table[:, 0].astype(int), labels, table[:, 2:6], table[:, 6])


def random_case(
    seed: int, *, num_images: int = 12, num_classes: int = 3, crowds: bool = True, side: float = 200
) -> tuple[GroundTruth, Detections]:
    """Boxes of every size, and detections: moved boxes, other classes, doubles and noise.

    No two scores are equal, so that no order of ties matters.
    """
    rng = np.random.default_rng(seed)
    num_gt = 5 * num_images
    boxes = _boxes(rng, num_gt, side)
    gt = GroundTruth(
        num_images=num_images,
        num_classes=num_classes,
        image_index=np.sort(rng.integers(0, num_images, num_gt)),
        labels=rng.integers(1, num_classes + 1, num_gt),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        iscrowd=(rng.random(num_gt) < 0.1) & crowds,
    )
    source = np.concatenate([rng.permutation(num_gt)[: 2 * num_gt // 3]] * 2)
    moved = boxes[source] + rng.normal(0, 0.12, (len(source), 4)) * np.tile(boxes[source, 2:], 2)
    moved[:, 2:] = np.abs(moved[:, 2:]) + 1
    labels = gt.labels[source]
    changed = rng.random(len(source)) < 0.15
    labels = np.where(changed, rng.integers(1, num_classes + 1, len(source)), labels)
    detections = Detections(
        image_index=np.concatenate([gt.image_index[source], rng.integers(0, num_images, num_gt)]),
        labels=np.concatenate([labels, rng.integers(1, num_classes + 1, num_gt)]),
        boxes_xywh=np.concatenate([moved, _boxes(rng, num_gt, side)]),
        scores=np.zeros(len(source) + num_gt),
    )
    scores = np.concatenate([rng.beta(3, 2, len(source)), rng.beta(1.2, 3, num_gt)])
    detections.scores = scores + 1e-9 * np.arange(len(scores))
    return gt, detections


def _boxes(rng: np.random.Generator, count: int, side: float) -> np.ndarray:
    """Boxes [N, 4] xywh of sides 6 to 200 pixels."""
    sides = np.exp(rng.uniform(np.log(6), np.log(200), (count, 2)))
    return np.concatenate([rng.uniform(0, side, (count, 2)), sides], axis=1)
