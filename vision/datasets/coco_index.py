"""A COCO annotation file as an index of flat arrays."""

import os

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, Category, build_index
from vision.datasets.coco_json import MISSING_ID, CategoryRecord, CocoJson
from vision.datasets.coco_tables import (
    Annotations,
    positions_of,
    read_annotations,
    read_categories,
    read_images,
)
from vision.files.available_memory import give_back_freed_memory


def load_coco_index(annotation_file: str | os.PathLike) -> AnnotationIndex:
    """Read an annotation file in COCO's format into flat arrays.

    A missing `area` becomes width x height, a missing `iscrowd` 0, missing `annotations` none.

    Raises:
        ValueError: malformed JSON (names the byte offset), an entry of a wrong type, the same id
            twice, or an annotation of an unknown image or category; names file and entry.
        OSError: the file cannot be read.
    """
    index = _index_of(CocoJson(annotation_file))
    give_back_freed_memory()  # after COCO glibc kept 120 MB of 185 for later
    return index


def _index_of(document: CocoJson) -> AnnotationIndex:
    categories = read_categories(document)
    images = read_images(document)
    annotations = read_annotations(document)
    category_ids = np.array([category.id for category in categories])
    rows = positions_of(annotations.image_ids, images.ids)
    labels = positions_of(annotations.category_ids, category_ids) + 1
    _refuse_unknown(document.path, annotations, rows, labels)
    return build_index(
        document.path,
        [_category(label, record) for label, record in enumerate(categories, 1)],
        image_ids=images.ids,
        file_names=images.names,
        sizes=images.sizes,
        rows=rows,
        labels=labels,
        boxes_xywh=annotations.boxes_xywh,
        areas=annotations.areas,
        iscrowd=annotations.iscrowd == 1,
    )


def _category(label: int, record: CategoryRecord) -> Category:
    original = record.id if record.original_id is None else record.original_id
    return Category(label, record.id, original, record.name)


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
