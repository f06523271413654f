"""YOLO labels as a COCO dict per split; used by the converter, and in memory by the trainer."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path

import numpy as np

from vision.datasets.findings import Findings, no_progress
from vision.datasets.yolo_files import LabelledImage, read_ahead
from vision.datasets.yolo_folder import (
    YoloFolder,
    find_yolo_folder,
    image_folder_of,
    label_candidates,
    names_below,
)
from vision.datasets.yolo_labels import LabelBoxes, LabelParser

# Written into `info`, by which the converter knows its own files.
DESCRIPTION = "converted from YOLO labels"


@dataclass
class YoloSplit:
    """One split as a COCO dict; its file names are relative to `image_folder`, with slashes."""

    coco: dict
    image_folder: Path
    num_listed: int  # images that the split names; the train split may keep fewer
    num_without_label_file: int


def read_yolo(
    root: str | Path,
    *,
    split_files: Mapping[str, str | Path] | None = None,
    class_file: str | Path | None = None,
    strict_labels: bool = False,
    has_confidence: bool = False,
    findings: Findings | None = None,
    progress: Callable[..., Iterable] = no_progress,
) -> dict[str, YoloSplit]:
    """Read a YOLO folder into one COCO dict per split.

    Image and annotation ids start at 1, category ids are the class ids plus 1. Boxes are clipped
    to the image; rows that are malformed, not finite, of an unknown class or without area are
    left out. The train split drops images without a valid row; the others keep every image.

    Args:
        root: the folder, or its data.yaml; `find_yolo_folder` says how splits, class names and
            labels are found.
        split_files: {split: file of image paths}, added to those found, or instead of them.
        class_file: a file with one class name a line.
        strict_labels: a malformed row or an unknown class is an error.
        has_confidence: rows may end with a confidence, which is ignored.
        findings: collects what was wrong, by kind.
        progress: wraps the iteration over a split's images, called with `total=`, as tqdm does.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder is incomplete, two images share a label file, an image is not
            readable, or the labels are not strictly valid; file, line and remedy are named.
    """
    findings = Findings() if findings is None else findings
    folder = find_yolo_folder(root, split_files=split_files, class_file=class_file)
    _warn_of_shared_images(folder, findings)
    owners: dict[str, str] = {}
    splits = {}
    for split, listed in folder.splits.items():
        parser = LabelParser(findings, strict=strict_labels, has_confidence=has_confidence)
        images = _without_repetitions(split, listed, findings)
        files = progress(read_ahead(folder.root, images), total=len(images))
        sizes, num_without = _add_files(files, parser, owners)
        boxes = parser.boxes(sizes, folder.classes)
        kept = np.arange(len(images))
        if split == "train":
            kept = _images_with_boxes(folder.root, images, boxes, findings)
        image_folder, names = _relative_names(folder.root, split, images)
        with _without_garbage_collection():
            coco = _coco_dict(folder.classes, names, sizes, boxes, kept)
        splits[split] = YoloSplit(
            coco=coco,
            image_folder=image_folder,
            num_listed=len(listed),
            num_without_label_file=num_without,
        )
    return splits


def _add_files(
    files: Iterable[LabelledImage], parser: LabelParser, owners: dict[str, str]
) -> tuple[np.ndarray, int]:
    """Feed label files to the parser.

    Args:
        owners: the image of each label file so far, over all splits.

    Returns:
        (height, width) of each image [I, 2], and how many images have no label file.
    """
    sizes, num_without = [], 0
    for index, file in enumerate(files):
        if (owner := owners.setdefault(file.label_file, file.image)) != file.image:
            raise ValueError(
                f"{file.image}: has the same label file as {owner} ({file.label_file}); rename "
                "one of the images together with its labels"
            )
        if file.labels is None:
            num_without += 1
        else:
            parser.add_file(index, file.label_file, file.labels)
        sizes.append(file.size)
    return np.array(sizes, dtype=np.int64), num_without


def _without_repetitions(split: str, images: list[str], findings: Findings) -> list[str]:
    unique = dict.fromkeys(images)
    if len(unique) < len(images):
        for image, count in Counter(images).items():
            if count > 1:
                findings.add("listed twice", image, f"{count} times in split {split}; used once")
    return list(unique)


def _warn_of_shared_images(folder: YoloFolder, findings: Findings) -> None:
    """An image in two splits makes the validation figures too good."""
    for (first, images), (second, others) in combinations(folder.splits.items(), 2):
        for image in sorted(set(images).intersection(others)):
            findings.add("in two splits", image, f"is in split {first} and in split {second}")


def _images_with_boxes(
    root: Path, images: list[str], boxes: LabelBoxes, findings: Findings
) -> np.ndarray:
    """Indices of the images that have a valid row; ValueError where none has."""
    has_box = np.zeros(len(images), dtype=bool)
    has_box[boxes.image_indices] = True
    if not has_box.any():
        place, _ = label_candidates(root, images[0])
        raise ValueError(
            f"{root}: no image of the train split has a valid label row; the labels of "
            f"{images[0]} were looked for in {place}"
        )
    for index in np.flatnonzero(~has_box):
        findings.add("without labels", images[index], "no valid label row; left out of train")
    return np.flatnonzero(has_box)


def _relative_names(root: Path, split: str, images: list[str]) -> tuple[Path, list[str]]:
    """The folder to name the images from: the split's by the data set rule, if it has them all."""
    folder = image_folder_of(root, split)
    if folder is not None:
        with suppress(ValueError):
            return folder, names_below(folder, images)
    images = [os.path.abspath(image) for image in images]
    folder = Path(os.path.commonpath([os.path.dirname(image) for image in images]))
    return folder, names_below(folder, images)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Many dicts at once make the collector look for cycles again and again: twice the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _coco_dict(
    classes: dict[int, str],
    names: list[str],
    sizes: np.ndarray,
    boxes: LabelBoxes,
    kept: np.ndarray,
) -> dict:
    """The COCO dict of the images `kept`; all ids start at 1."""
    image_ids = np.zeros(len(names), dtype=np.int64)
    image_ids[kept] = np.arange(1, len(kept) + 1)
    images = [
        {"id": image_id, "file_name": names[index], "height": height, "width": width}
        for image_id, index, (height, width) in zip(
            count(1), kept.tolist(), sizes[kept].tolist(), strict=False
        )
    ]
    columns = (image_ids[boxes.image_indices], boxes.class_ids + 1, boxes.boxes_xywh)
    annotations = [
        {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for annotation_id, (image_id, category_id, box) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]
    categories = [{"id": class_id + 1, "name": name} for class_id, name in classes.items()]
    info = {"description": DESCRIPTION}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}
