"""Results of an evaluation: detections.json, the printed tables, hints if nothing is detected."""

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

from vision.evaluation.coco_boxes import Detections
from vision.evaluation.coco_eval import PRECISIONS, RECALLS

_AT_ONCE = 20_000


def detections_json(
    detections: Detections, *, image_ids: np.ndarray, category_ids: Sequence[int]
) -> Iterator[bytes]:
    """Yield detections in COCO's results format, in pieces, for a file.

    Coordinates are rounded to three decimals of a pixel, scores to six.

    Args:
        detections: those of a data set.
        image_ids: for each image position, the image's id in the annotation file.
        category_ids: for labels 1..C, the category's id in the annotation file.
    """
    categories = np.array([0, *category_ids])
    yield b"["
    for start in range(0, len(detections), _AT_ONCE):
        part = detections.take(np.arange(start, min(start + _AT_ONCE, len(detections))))
        columns = (
            image_ids[part.image_index].tolist(),
            categories[part.labels].tolist(),
            part.boxes_xywh.round(3).tolist(),
            part.scores.round(6).tolist(),
        )
        names = ("image_id", "category_id", "bbox", "score")
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        text = json.dumps(rows, separators=(",", ":"))[1:-1]
        yield (",\n" if start else "\n").encode() + text.encode()
    yield b"\n]\n"


def metrics_table(metrics: dict) -> list[str]:
    """Format the twelve numbers and the table of classes, as lines; n/a where no box counts."""
    per_class = metrics["per_class"]
    lines = [
        f"{name:6} {_number(metrics[name])}  IoU {iou or '0.50:0.95':9}  area {area:6}  "
        f"at most {limit} of a class in an image"
        for name, (iou, area, limit) in {**PRECISIONS, **RECALLS}.items()
    ]
    if "score_threshold" in metrics:
        rule = f"boxes from score {metrics['score_threshold']:g} on, right from IoU 0.50 on"
        lines += [f"{name:9} {_number(metrics[name])}  {rule}" for name in ("precision", "recall")]
    width = max(map(len, ["class", *per_class]))
    lines += ["", f"{'class':{width}} {'boxes':>7} {'AP':>6} {'AP50':>6} {'AR100':>6}"]
    for name, row in per_class.items():
        numbers = " ".join(_number(row[key]) for key in ("AP", "AP50", "AR100"))
        lines.append(f"{name:{width}} {row['num_gt']:7} {numbers}")
    return lines


def explain_nothing_found(top_scores: dict[str, float], score_threshold: float) -> list[str]:
    """List likely reasons why there is no detection at all.

    Args:
        top_scores: {class: its highest score in any image}.
        score_threshold: the score that a detection must exceed.
    """
    width = max(map(len, top_scores))
    lines = [f"nothing scored above {score_threshold:g}; the highest score of each class:"]
    lines += [f"  {name:{width}} {score:.6f}" for name, score in top_scores.items()]
    if not all(map(math.isfinite, top_scores.values())):
        return [
            *lines,
            "the scores are not numbers: training diverged; take an earlier checkpoint, lower --lr",
        ]
    return [
        *lines,
        "likely reasons:",
        "  all is background: too few epochs, or a learning rate that is too low or too high; "
        "train_ssd.py --overfit 8 tells whether the network can learn these images",
        "  other preprocessing: images go in as RGB, with the network's own mean and std; weights "
        "that were trained with another do not recognise anything",
        "  wrong weights: a backbone alone, or a detector of other classes",
        f"  --score-threshold {score_threshold:g} is too high",
    ]


def _number(value: float | None) -> str:
    return f"{'n/a':>6}" if value is None else f"{value:6.3f}"
