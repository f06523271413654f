"""YOLO labels as COCO content per split; used by the converter, and in memory by the trainer."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations, count, repeat
from pathlib import Path

import msgspec
import numpy as np

from vision.datasets.findings import Findings, no_progress
from vision.datasets.yolo_files import read_labelled_images
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


class Image(msgspec.Struct, gc=False):
    """One entry of `images`."""

    id: int
    file_name: str
    height: int
    width: int


class Annotation(msgspec.Struct, gc=False):
    """One entry of `annotations`."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class Coco(msgspec.Struct):
    """A COCO file; entries are structs, of which msgspec makes and writes a million a second."""

    info: dict[str, str]
    images: list[Image]
    annotations: list[Annotation]
    categories: list[dict]


@dataclass
class YoloSplit:
    """One split as COCO; its file names are relative to `image_folder`, with slashes."""

    coco: Coco
    image_folder: Path
    num_listed: int  # images that the split names; the train split may keep fewer
    num_without_label_file: int

    def as_dict(self) -> dict:
        """`coco` as plain dicts and lists."""
        return msgspec.to_builtins(self.coco)


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
    """Read a YOLO folder into COCO content, split by split.

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
        blocks: list[tuple[np.ndarray, int]] = []
        reading = _read_blocks(folder.root, images, parser=parser, owners=owners, blocks=blocks)
        for _ in progress(reading, total=len(images)):
            pass
        sizes = np.concatenate([block_sizes for block_sizes, _ in blocks])
        boxes = parser.boxes(sizes, folder.classes)
        kept = np.arange(len(images))
        if split == "train":
            kept = _images_with_boxes(folder.root, images, boxes, findings)
        image_folder, names = _relative_names(folder.root, split, images)
        with _without_garbage_collection():
            coco = _coco_of(folder.classes, names, sizes, boxes, kept)
        splits[split] = YoloSplit(
            coco=coco,
            image_folder=image_folder,
            num_listed=len(listed),
            num_without_label_file=sum(num_without for _, num_without in blocks),
        )
    return splits


def _read_blocks(
    root: Path,
    images: list[str],
    *,
    parser: LabelParser,
    owners: dict[str, str],
    blocks: list[tuple[np.ndarray, int]],
) -> Iterator[str]:
    """Read labels into `parser`, yielding each image that is done.

    Args:
        owners: the image of each label file so far, over all splits.
        blocks: gets sizes [I, 2] and the number without a label file, some images at a time.
    """
    for block in read_labelled_images(root, images):
        for image, label_file in zip(block.images, block.label_files, strict=True):
            if (owner := owners.setdefault(label_file, image)) != image:
                raise ValueError(
                    f"{image}: has the same label file as {owner} ({label_file}); rename one of "
                    "the images together with its labels"
                )
        parser.add(block.label_files, block.rows)
        blocks.append((block.sizes, block.num_without))
        yield from block.images


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
        place = next(label_candidates(root, images[0]))
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


def _coco_of(
    classes: dict[int, str],
    names: list[str],
    sizes: np.ndarray,
    boxes: LabelBoxes,
    kept: np.ndarray,
) -> Coco:
    """The COCO content of the images `kept`; all ids start at 1."""
    image_ids = np.zeros(len(names), dtype=np.int64)
    image_ids[kept] = np.arange(1, len(kept) + 1)
    heights, widths = sizes[kept].T.tolist()
    xywh = boxes.boxes_xywh
    annotations = map(
        Annotation,
        range(1, len(xywh) + 1),
        image_ids[boxes.image_indices].tolist(),
        (boxes.class_ids + 1).tolist(),
        xywh.tolist(),
        (xywh[:, 2] * xywh[:, 3]).tolist(),
        repeat(0),
    )
    return Coco(
        info={"description": DESCRIPTION},
        images=list(map(Image, count(1), [names[index] for index in kept], heights, widths)),
        annotations=list(annotations),
        categories=[{"id": class_id + 1, "name": name} for class_id, name in classes.items()],
    )
