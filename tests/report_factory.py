"""A small validation to make reports of: drawn images, boxes, detections, a run folder."""

import json
from pathlib import Path

import cv2
import numpy as np
from detection_factory import random_case

from vision.datasets.annotation_index import AnnotationIndex
from vision.datasets.coco_index import load_coco_index
from vision.datasets.join_classes import with_classes
from vision.datasets.layouts.layout import Source
from vision.evaluation.coco_boxes import Detections, GroundTruth, ground_truth_from_index
from vision.evaluation.coco_eval import evaluate_boxes
from vision.ops.priors import build_priors
from vision.report.inputs import NetworkFacts, Validation
from vision.ssd.models import MODELS

SIDE = 400  # pixels of an image
MAPS = [(6, 6), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)]


def network() -> NetworkFacts:
    """Facts of a network of 96 x 96 pixels."""
    value = MODELS["mb2-ssd-lite"].with_image_size((96, 96))
    priors = build_priors(MAPS, value.image_size, value.priors)
    return NetworkFacts(
        value.name, value.image_size, priors.numpy(), MAPS, value.priors, 1_234_567, 89_000_000
    )


def write_split(
    folder: Path, gt: GroundTruth, names: list[str], *, side: int = SIDE
) -> AnnotationIndex:
    """Write the boxes as a COCO file with an image for each, and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(gt.num_images):
        pixels = np.full((side, side, 3), 90 + 10 * (i % 8), np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), pixels)
    columns = (gt.image_index, gt.labels, gt.boxes_xywh, gt.areas, gt.iscrowd.astype(int))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": side, "height": side}
            for i in range(gt.num_images)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "annotations": [
            dict(zip(keys, row, strict=True), id=i) for i, row in enumerate(rows, start=1)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return load_coco_index(folder / "annotations.json")


def make_validation(
    folder: Path,
    names: list[str],
    case: tuple[GroundTruth, Detections] | None = None,
    **changes: object,
) -> Validation:
    """Evaluate a drawn case, or the one that is given."""
    gt, detections = case or random_case(3, num_images=10, num_classes=len(names))
    index = with_classes(write_split(folder / "images", gt, names), names)
    truth = ground_truth_from_index(index)
    values = {
        "metrics": evaluate_boxes(truth, detections, class_names=names),
        "detections": detections,
        "ground_truth": truth,
        "class_names": names,
        "network": network(),
        "sources": [Source(index, folder / "images")],
        "weights": "runs/cells",
        "dataset": "cells",
        "train_sources": [Source(index, folder / "images")],
        "command": ["./eval_ssd.py", "--trained-model", "runs/cells"],
    }
    return Validation(**{**values, **changes})


def write_run(folder: Path, *, base_net: str = "none", **columns: list) -> Path:
    """Write a run folder of as many epochs as the columns have values."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {
        "lr": 0.01, "loss": 2.0, "loss_classification": 1.5, "loss_regression": 0.5,
        "images_per_second": 40.0, "seconds": 10.0, "eval_seconds": 1.0, "data_wait": 0.05,
        "step_share": 0.85, "eval_share": 0.1, "peak_memory_mb": 900.0,
    }  # fmt: skip
    count = max((len(values) for values in columns.values()), default=3)
    records = [
        {"epoch": i + 1, "step": 10 * i + 10, **defaults, **{n: v[i] for n, v in columns.items()}}
        for i in range(count)
    ]
    arguments = {
        "net": "mb2-ssd-lite", "datasets": ["cells"], "epochs": count, "batch_size": 8, "lr": 0.01,
        "augmentation": "ssd", "base_net": base_net, "image_size": [96, 96], "seed": 0,
        "iou_threshold": 0.4, "neg_pos_ratio": 3.0, "workers": 2, "cache": "none",
        "weight_decay": 0.01, "tensorboard": False,
    }  # fmt: skip
    change = {"epoch": 1, "step": 10, "changes": {"workers": [0, 2]}}
    config = {"arguments": arguments, "classes": [], "history": [change]}
    (folder / "config.json").write_text(json.dumps(config))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return folder
