#!/usr/bin/env python3
"""report.html of a result of COCO val's size: time and memory beyond the evaluation.

    python benchmarks/report.py [--images 5000]

5,000 images of 640 x 480, 80 classes, 36,800 objects and 480,000 detections, as coco_evaluation.py
makes them, with a training split of the same size. The images are one grey JPEG, so that the
pictures of the galleries are decoded, cut out and encoded as in earnest.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from coco_evaluation import build_case, peak_mb

from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.layout import Source
from vision.evaluation.coco_boxes import GroundTruth, ground_truth_from_index
from vision.evaluation.coco_eval import evaluate_boxes
from vision.report.analysis import Analysis
from vision.report.inputs import Validation, describe_network
from vision.report.report import write_report
from vision.ssd.models import build_model


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        validation = build_validation(Path(folder), args.images)
        start_mb = peak_mb()
        wall, cpu = time.perf_counter(), time.process_time()
        path = write_report(Path(folder), Analysis(validation))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"{args.images} images, {len(validation.detections)} detections: {wall:.1f} s, "
            f"{cpu:.1f} s of processor time on {os.cpu_count()} cores, peak {peak_mb():.0f} MB, of "
            f"which the evaluation before {start_mb:.0f}; {path.stat().st_size / 1e6:.2f} MB"
        )
    return 0


def build_validation(folder: Path, num_images: int) -> Validation:
    """Write annotations and images, evaluate, and collect what the report takes."""
    ground_truth, detections = build_case(num_images)
    names = [f"class {k}" for k in range(1, ground_truth.num_classes + 1)]
    (folder / "val.json").write_text(json.dumps(as_coco(ground_truth, names)))
    cv2.imwrite(str(folder / "grey.jpg"), np.full((480, 640, 3), 128, np.uint8))
    for i in range(num_images):
        os.link(folder / "grey.jpg", folder / f"{i:06}.jpg")
    index = load_coco_index(folder / "val.json")
    truth = ground_truth_from_index(index)
    return Validation(
        metrics=evaluate_boxes(truth, detections, class_names=names),
        detections=detections,
        ground_truth=truth,
        class_names=names,
        network=describe_network(build_model("mb2-ssd-lite", num_classes=81)),
        sources=[Source(index, folder)],
        weights="runs/coco",
        dataset="coco-data",
        train_sources=[Source(index, folder)],
    )


def as_coco(gt: GroundTruth, names: list[str]) -> dict:
    """Write ground truth as COCO's annotations."""
    columns = (gt.image_index, gt.labels, gt.boxes_xywh, gt.areas, gt.iscrowd)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    return {
        "images": [
            {"id": i, "file_name": f"{i:06}.jpg", "width": 640, "height": 480}
            for i in range(gt.num_images)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "annotations": [
            dict(zip(keys, row, strict=True), id=i) for i, row in enumerate(rows, start=1)
        ],
    }


if __name__ == "__main__":
    raise SystemExit(main())
