"""The COCO content of a YOLO split, and the report of its conversion."""

from collections.abc import Mapping
from itertools import count, repeat
from pathlib import Path

import msgspec

from vision.datasets.coco_export import DESCRIPTION, Annotation, Coco, Image
from vision.datasets.coco_tables import without_garbage_collection
from vision.datasets.findings import Findings
from vision.datasets.yolo import YoloSplit
from vision.files.atomic_file import write_atomically


def coco_of(split: YoloSplit) -> Coco:
    """The COCO content of a split: ids of images and annotations from 1, of categories plus 1."""
    heights, widths = split.sizes.T.tolist()
    xywh = split.boxes.boxes_xywh
    with without_garbage_collection():
        return Coco(
            info={"description": DESCRIPTION},
            images=list(map(Image, count(1), split.names, heights, widths)),
            annotations=list(
                map(
                    Annotation,
                    count(1),
                    (split.boxes.image_indices + 1).tolist(),
                    (split.boxes.class_ids + 1).tolist(),
                    xywh.tolist(),
                    (xywh[:, 2] * xywh[:, 3]).tolist(),
                    repeat(0),
                )
            ),
            categories=[{"id": number + 1, "name": name} for number, name in split.classes.items()],
        )


def write_report(splits: Mapping[str, YoloSplit], findings: Findings, file: Path) -> None:
    """Write what was converted and every finding as JSON."""
    report = {
        "splits": {
            split: {
                "images_listed": data.num_listed,
                "images": len(data.names),
                "images_without_label_file": data.num_without_label_file,
                "annotations": len(data.boxes),
            }
            for split, data in splits.items()
        },
        "findings": findings.as_report(),
    }
    write_atomically(file, msgspec.json.format(msgspec.json.encode(report)) + b"\n")
