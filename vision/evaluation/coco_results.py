"""What an evaluation leaves: the results file, the tables, and why nothing was found."""

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
    """Encode detections in COCO's results format, in pieces, for a file.

    Coordinates keep three decimals of a pixel, scores six: finer than float32 holds them.

    Args:
        detections: of a data set.
        image_ids: the file's id of each image position.
        category_ids: the file's id of labels 1..C.
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
    """Lay out the twelve numbers and the classes, one a line; n/a where no box could count."""
    per_class = metrics["per_class"]
    lines = [
        f"{name:6} {_number(metrics[name])}  IoU {iou or '0.50:0.95':9}  area {area:6}  "
        f"at most {limit} of a class in an image"
        for name, (iou, area, limit) in {**PRECISIONS, **RECALLS}.items()
    ]
    width = max(map(len, ["class", *per_class]))
    lines += ["", f"{'class':{width}} {'boxes':>7} {'AP':>6} {'AP50':>6} {'AR100':>6}"]
    for name, row in per_class.items():
        numbers = " ".join(_number(row[key]) for key in ("AP", "AP50", "AR100"))
        lines.append(f"{name:{width}} {row['num_gt']:7} {numbers}")
    return lines


def explain_nothing_found(top_scores: dict[str, float], score_threshold: float) -> list[str]:
    """Say why there may be no detection at all.

    Args:
        top_scores: {class: its highest score in any image}.
        score_threshold: what a detection must exceed.
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
        "that were trained otherwise see noise",
        "  wrong weights: a backbone alone, or a detector of other classes",
        f"  --score-threshold {score_threshold:g} is too high",
    ]


def _number(value: float | None) -> str:
    return f"{'n/a':>6}" if value is None else f"{value:6.3f}"
