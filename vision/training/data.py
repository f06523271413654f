"""The data of a run: which images and boxes of which folders, and whether they fit the run."""

import hashlib
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, Category
from vision.datasets.coco import CocoDetection
from vision.datasets.coco_index import load_coco_index
from vision.datasets.coco_json import find_annotation_file, split_files
from vision.datasets.findings import Findings
from vision.datasets.loader import DetectionLoader
from vision.datasets.yolo import Coco, read_yolo
from vision.engine import distributed

logger = logging.getLogger(__name__)
Sources = list[tuple[AnnotationIndex, Path]]


def open_coco(roots: list[str], split: str, *, is_optional: bool = False) -> Sources:
    """Read the annotations of one split of each folder.

    Args:
        roots: the folders.
        split: train, val or test.
        is_optional: pass over a folder without annotations of this split.

    Raises:
        ValueError: a folder lacks the split, or its annotations are not COCO's.
    """
    sources = []
    for root in roots:
        if is_optional and find_annotation_file(root, split) is None:
            continue
        annotation_file, image_folder = split_files(root, split)
        sources.append((load_coco_index(annotation_file), image_folder))
    return sources


def open_yolo(
    roots: list[str], *, split_lists: dict[str, str | None], strict_labels: bool
) -> dict[str, Sources]:
    """Convert YOLO folders to COCO annotations, and read those; the folders are only read.

    Args:
        roots: the YOLO folders.
        split_lists: {split: file of image paths, or None for the folder's own}.
        strict_labels: a bad label line is an error.

    Returns:
        Sources by split.
    """
    given = {split: path for split, path in split_lists.items() if path}
    sources: dict[str, Sources] = {}
    for root in roots:
        findings = Findings()
        splits = read_yolo(
            root, split_files=given or None, strict_labels=strict_labels, findings=findings
        )
        for kind, count in findings.counts.items():
            logger.warning("%s: %d x %s", root, count, kind)
        for split, converted in splits.items():
            index = _as_index(converted.coco, name=f"split {split} of {root}")
            sources.setdefault(split, []).append((index, converted.image_folder))
    return sources


def _as_index(coco: Coco, *, name: str) -> AnnotationIndex:
    """Read COCO content the way a file is read; `name` stands for the file in messages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_bytes(msgspec.json.encode(coco))
        return replace(load_coco_index(path), annotation_file=name)


def shared_loader(dataset: CocoDetection, **options) -> DetectionLoader:
    """Return a DetectionLoader of this process's part; `options` as it takes them."""
    return DetectionLoader(
        dataset, rank=distributed.rank(), world_size=distributed.world_size(), **options
    )


def describe(split: str, sources: Sources) -> list[str]:
    """Say in a few lines what a split holds and what was left out of it."""
    images = sum(len(index) for index, _ in sources)
    boxes = sum(int(index.trainable.sum()) for index, _ in sources)
    empty = sum(index.num_empty_images() for index, _ in sources)
    crowds = sum(int(index.iscrowd.sum()) for index, _ in sources)
    lines = [f"{split}: {images} images, {boxes} boxes, {empty} images without, {crowds} crowds"]
    for index, _ in sources:
        rejected = [
            f"{len(image_ids)} {reason} (first in image {image_ids[0]})"
            for reason, image_ids in index.rejected.items()
            if len(image_ids)
        ]
        if rejected:
            lines.append(
                f"{index.annotation_file}: boxes left out: {', '.join(rejected)}; correct them "
                "there if they are meant to count"
            )
    per_class = np.sum([index.boxes_per_class() for index, _ in sources], axis=0)
    names = [category.name for category in sources[0][0].categories]
    absent = [name for name, count in zip(names, per_class, strict=True) if count == 0]
    if absent:
        shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        lines.append(f"{split}: no box of {len(absent)} of {len(names)} classes: {shown}")
    elif len(names) <= 20:
        pairs = zip(names, per_class, strict=True)
        lines.append(f"{split}: " + ", ".join(f"{name} {count}" for name, count in pairs))
    return lines


def check_classes(expected: list[dict], categories: list[Category], *, where: str) -> None:
    """Refuse data of other classes than the run's, or in another order.

    Raises:
        ValueError: names the first difference.
    """
    old = [item["name"] for item in expected]
    new = [category.name for category in categories]
    if old == new:
        return
    missing = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    if missing or added:
        difference = f"without {missing or 'none'}, with {added or 'none'} besides"
    else:
        difference = f"in another order: {new} instead of {old}"
    raise ValueError(
        f"{where}: its classes are not the run's: {difference}; start a new run from these weights "
        "with --pretrained-ssd"
    )


def fingerprint(sources: Sources) -> dict:
    """Return what tells one set of images and boxes from another, wherever it lies.

    Pixels are not looked at, and category ids do not count: only the order of the classes does.
    """
    digest = hashlib.sha256()
    for index, _ in sources:
        digest.update(index.name_bytes)
        boxes = (index.clipped_boxes, index.labels, index.iscrowd, index.trainable)
        for array in (index.name_offsets, index.sizes, index.box_offsets, *boxes):
            digest.update(np.ascontiguousarray(array))
    return {
        "images": sum(len(index) for index, _ in sources),
        "boxes": sum(int(index.trainable.sum()) for index, _ in sources),
        "sha256": digest.hexdigest(),
    }


def images_with_boxes(sources: Sources, count: int) -> np.ndarray:
    """Return the positions of the first `count` images that have a box, over all sources."""
    positions, start = [], 0
    for index, _ in sources:
        before = np.concatenate([[0], np.cumsum(index.trainable & ~index.iscrowd)])
        has_boxes = np.diff(before[index.box_offsets]) > 0
        positions.append(start + np.flatnonzero(has_boxes))
        start += len(index)
    return np.concatenate(positions)[:count]
