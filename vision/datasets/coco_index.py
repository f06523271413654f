"""Index of a COCO annotation file: images and boxes in flat arrays, for training and evaluation."""

import os
from dataclasses import dataclass, field

import numpy as np

from vision.datasets.coco_json import MISSING_ID, NOT_FINITE, CategoryRecord, CocoJson
from vision.datasets.coco_tables import (
    Annotations,
    Images,
    clip_boxes,
    finite_boxes,
    positions_of,
    read_annotations,
    read_categories,
    read_images,
)
from vision.files.available_memory import give_back_freed_memory


@dataclass(frozen=True)
class Category:
    """A class: its label 1..C, its id in the file, and its id before fix_coco_annotations.py."""

    label: int
    category_id: int
    original_category_id: int
    name: str


@dataclass
class CocoIndex:
    """Images and boxes of one annotation file, without a Python object for each image or box.

    Annotations are sorted by image, then in file order: image `i` has the rows `box_offsets[i]` to
    `box_offsets[i + 1]`. Boxes that are not finite, or have no area inside their image, are left
    out (fix_coco_annotations.py drops them); `rejected` has the ids of their images.
    """

    annotation_file: str
    categories: list[Category]  # by ascending id
    image_ids: np.ndarray  # int64 [I]
    sizes: np.ndarray  # int32 [I, 2], (height, width)
    name_bytes: bytes = field(repr=False)
    name_offsets: np.ndarray  # int64 [I + 1]
    box_offsets: np.ndarray  # int64 [I + 1]
    boxes_xywh: np.ndarray  # float64 [A, 4], as in the file
    clipped_boxes: np.ndarray  # float32 [A, 4], xyxy inside the image
    labels: np.ndarray  # int32 [A], 1..C
    areas: np.ndarray  # float64 [A]
    iscrowd: np.ndarray  # bool [A]
    trainable: np.ndarray  # bool [A]: at least 1 px wide and high after clipping
    rejected: dict[str, np.ndarray]  # reason -> int64, image ids of boxes not used in training

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, image: int) -> str:
        """Return the `file_name` of the image at this position."""
        return self.name_bytes[self.name_offsets[image] : self.name_offsets[image + 1]].decode()

    def boxes_per_class(self) -> np.ndarray:
        """Count the trainable boxes of labels 1, 2, ...: int64 [C]."""
        labels = self.labels[self.trainable]
        return np.bincount(labels, minlength=len(self.categories) + 1)[1:]

    def num_empty_images(self) -> int:
        """Count the images without a trainable box."""
        before = np.concatenate([[0], np.cumsum(self.trainable)])[self.box_offsets]
        return int((np.diff(before) == 0).sum())


def load_coco_index(annotation_file: str | os.PathLike) -> CocoIndex:
    """Read an annotation file in COCO's format into flat arrays.

    A missing `area` becomes width x height, a missing `iscrowd` 0, missing `annotations` none.

    Raises:
        ValueError: malformed JSON (names the byte offset), an entry of a wrong type, the same id
            twice, or an annotation of an unknown image or category; names file and entry.
        OSError: the file cannot be read.
    """
    index = _build_index(CocoJson(annotation_file))
    give_back_freed_memory()  # after COCO glibc kept 120 MB of 185 for later
    return index


def _build_index(document: CocoJson) -> CocoIndex:
    categories = read_categories(document)
    images = read_images(document)
    annotations = read_annotations(document)
    category_ids = np.array([category.id for category in categories])
    rows = positions_of(annotations.image_ids, images.ids)
    labels = positions_of(annotations.category_ids, category_ids) + 1
    _refuse_unknown(document.path, annotations, rows, labels)

    clipped = clip_boxes(annotations.boxes_xywh, images.sizes[rows])
    finite = finite_boxes(annotations.boxes_xywh)
    extents = clipped[:, 2:] - clipped[:, :2]
    has_area = finite & (extents > 0).all(axis=1)
    keep = np.flatnonzero(has_area)
    keep = keep[np.argsort(rows[keep], kind="stable")]
    trainable = (extents >= 1).all(axis=1)[keep]
    boxes = annotations.boxes_xywh.take(keep, axis=0)
    areas = annotations.areas[keep]
    name_bytes, name_offsets = _pack_names(images)
    return CocoIndex(
        annotation_file=document.path,
        categories=[_category(label, record) for label, record in enumerate(categories, 1)],
        image_ids=images.ids,
        sizes=images.sizes,
        name_bytes=name_bytes,
        name_offsets=name_offsets,
        box_offsets=np.searchsorted(rows[keep], np.arange(len(images.ids) + 1)),
        boxes_xywh=boxes,
        clipped_boxes=clipped.astype(np.float32).take(keep, axis=0),
        labels=labels[keep].astype(np.int32),
        areas=np.where(np.abs(areas) < NOT_FINITE, areas, boxes[:, 2] * boxes[:, 3]),
        iscrowd=annotations.iscrowd[keep] == 1,
        trainable=trainable,
        rejected={
            "not finite": annotations.image_ids[~finite],
            "no area inside the image": annotations.image_ids[finite & ~has_area],
            "thinner than 1 px": annotations.image_ids[keep[~trainable]],
        },
    )


def _category(label: int, record: CategoryRecord) -> Category:
    original = record.id if record.original_id is None else record.original_id
    return Category(label, record.id, original, record.name)


def _pack_names(images: Images) -> tuple[bytes, np.ndarray]:
    encoded = [name.encode() for name in images.names]
    lengths = [0, *map(len, encoded)]
    return b"".join(encoded), np.cumsum(lengths, dtype=np.int64)


def _refuse_unknown(
    path: str, annotations: Annotations, rows: np.ndarray, labels: np.ndarray
) -> None:
    for what, unknown, ids in (
        ("image", rows < 0, annotations.image_ids),
        ("category", labels < 1, annotations.category_ids),
    ):
        if unknown.any():
            first = int(np.argmax(unknown))
            number = ids[first]
            owner = f"has no {what}_id" if number == MISSING_ID else f"has unknown {what} {number}"
            raise ValueError(
                f"{path}: annotation {annotations.ids[first]} {owner} ({int(unknown.sum())} such "
                "annotations); run fix_coco_annotations.py to drop them"
            )
