"""The twelve COCO numbers and the per-class table."""

import contextlib
import io

import numpy as np

from vision.evaluation.coco_arrays import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    compute_arrays,
)
from vision.evaluation.coco_boxes import Detections, GroundTruth

# name: (IoU threshold or all, area range, detections per class and image)
PRECISIONS = {
    "AP": (None, "all", 100),
    "AP50": (0.5, "all", 100),
    "AP75": (0.75, "all", 100),
    "APs": (None, "small", 100),
    "APm": (None, "medium", 100),
    "APl": (None, "large", 100),
}
RECALLS = {
    "AR1": (None, "all", 1),
    "AR10": (None, "all", 10),
    "AR100": (None, "all", 100),
    "ARs": (None, "small", 100),
    "ARm": (None, "medium", 100),
    "ARl": (None, "large", 100),
}


def evaluate_boxes(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    class_names: list[str],
    evaluator: str = "fast",
) -> dict:
    """Measure detections against the ground truth as COCO does.

    Args:
        ground_truth: every annotated box of the data set.
        detections: every detection; may be empty, then all numbers are 0.
        class_names: of labels 1..C.
        evaluator: a key of EVALUATORS: "fast" (NumPy on whole arrays), or "pycocotools", which
            gives the same arrays in 43 times the time (benchmarks/coco_evaluation.py).

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl`, each
        the mean over the classes that have boxes (None where no class has), and `per_class`:
        name -> {AP, AP50, AR100, num_gt}, with None for a class without boxes.

    Raises:
        ValueError: as `check_evaluator`, or a detection has an impossible label, image or
            coordinate.
    """
    check_evaluator(evaluator)
    _check_detections(detections, ground_truth)
    precision, recall, _ = EVALUATORS[evaluator](ground_truth, detections)
    metrics: dict = {name: _mean(_select(precision, *key)) for name, key in PRECISIONS.items()}
    metrics |= {name: _mean(_select(recall, *key)) for name, key in RECALLS.items()}
    counted = ground_truth.labels[~ground_truth.iscrowd.astype(bool)]
    num_gt = np.bincount(counted, minlength=len(class_names) + 1)[1:]
    metrics["per_class"] = {
        name: {
            "AP": _mean(_select(precision[:, :, [k]], *PRECISIONS["AP"])),
            "AP50": _mean(_select(precision[:, :, [k]], *PRECISIONS["AP50"])),
            "AR100": _mean(_select(recall[:, [k]], *RECALLS["AR100"])),
            "num_gt": int(num_gt[k]),
        }
        for k, name in enumerate(class_names)
    }
    return metrics


def check_evaluator(name: str) -> None:
    """Check that an evaluator can be used, before the work whose result it would measure.

    Raises:
        ValueError: `name` is not in EVALUATORS, or pycocotools is not installed.
    """
    if name not in EVALUATORS:
        raise ValueError(f"unknown evaluator {name!r}: choose {' or '.join(EVALUATORS)}")
    if name == "pycocotools":
        try:
            import pycocotools.cocoeval  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"--evaluator pycocotools: {error}: pip install pycocotools, "
                "or use --evaluator fast, which gives the same numbers"
            ) from None


def compute_arrays_pycocotools(
    ground_truth: GroundTruth, detections: Detections
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute what `coco_arrays.compute_arrays` returns with pycocotools.

    The COCO objects get new ids from 1. So ids in the file that are 0 (pycocotools takes 0 for "not
    matched"), repeated or not consecutive do not matter.
    """
    # Imported here: the rest of evaluation works without pycocotools.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt = ground_truth
    coco_gt, coco_dt = COCO(), COCO()
    images = [{"id": i} for i in range(gt.num_images)]
    categories = [{"id": k} for k in range(1, gt.num_classes + 1)]
    columns = (gt.image_index, gt.labels, gt.boxes_xywh, gt.areas, gt.iscrowd.astype(int))
    coco_gt.dataset = {
        "images": images,
        "categories": categories,
        "annotations": _annotations(*columns),
    }
    dt = detections
    areas = dt.boxes_xywh[:, 2] * dt.boxes_xywh[:, 3]
    columns = (dt.image_index, dt.labels, dt.boxes_xywh, areas, np.zeros(len(dt), int), dt.scores)
    # Not COCO.loadRes: it needs at least one detection, and adds a polygon to each.
    coco_dt.dataset = {**coco_gt.dataset, "annotations": _annotations(*columns)}
    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt.createIndex()
        coco_dt.createIndex()
        coco_eval = COCOeval(coco_gt, coco_dt, "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
    return tuple(coco_eval.eval[name] for name in ("precision", "recall", "scores"))


def _annotations(
    images: np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
    areas: np.ndarray,
    iscrowd: np.ndarray,
    scores: np.ndarray | None = None,
) -> list[dict]:
    names = ["image_id", "category_id", "bbox", "area", "iscrowd", "score"]
    columns = [images, labels, boxes, areas, iscrowd, *([] if scores is None else [scores])]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=False), id=i) for i, row in enumerate(rows, start=1)]


EVALUATORS = {"fast": compute_arrays, "pycocotools": compute_arrays_pycocotools}


def _select(values: np.ndarray, iou: float | None, area: str, limit: int) -> np.ndarray:
    """Select an area range, a detection limit and an IoU threshold (None: all): [T, ..., A, M]."""
    values = values[..., list(AREA_RANGES).index(area), MAX_DETECTIONS.index(limit)]
    return values if iou is None else values[np.isclose(IOU_THRESHOLDS, iou)]


def _mean(values: np.ndarray) -> float | None:
    """Average over the classes that have boxes; the values of the others are -1."""
    values = values[values > -1]
    return float(values.mean()) if len(values) else None


def _check_detections(detections: Detections, ground_truth: GroundTruth) -> None:
    if not len(detections):
        return
    for what, values, lowest, highest in (
        ("label", detections.labels, 1, ground_truth.num_classes),
        ("image index", detections.image_index, 0, ground_truth.num_images - 1),
    ):
        wrong = (values < lowest) | (values > highest)
        if wrong.any():
            raise ValueError(
                f"a detection has {what} {values[wrong][0]}, outside {lowest}..{highest}: "
                "were the detections made for this data set?"
            )
    if not (np.isfinite(detections.boxes_xywh).all() and np.isfinite(detections.scores).all()):
        raise ValueError("detections hold boxes or scores that are not finite numbers")
