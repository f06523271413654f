"""A COCO annotation file as an index of flat arrays."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vision.datasets.annotation_index import NOT_FINITE, AnnotationIndex, Category, build_index
from vision.datasets.coco_ids import MISSING_ID, CocoIds
from vision.datasets.coco_json import CategoryRecord, CocoJson
from vision.datasets.coco_tables import (
    Annotations,
    Images,
    positions_of,
    read_annotations,
    read_categories,
    read_images,
)
from vision.datasets.image_headers import image_size
from vision.files.available_memory import give_back_freed_memory

_NUM_THREADS = 8  # they wait for the disk side by side


def load_coco_index(
    annotation_file: str | os.PathLike, image_folder: str | os.PathLike | None = None
) -> AnnotationIndex:
    """Read an annotation file in COCO's format into flat arrays.

    A missing `area` becomes width x height, a missing `iscrowd` 0, missing `annotations` none; ids
    that are text become numbers. `accepted` of the index counts them.

    Args:
        annotation_file: the file.
        image_folder: where images are looked at for the sizes that the file does not give.

    Raises:
        ValueError: malformed JSON (names the byte offset), an entry of a wrong type, the same id
            twice, or an annotation of an unknown image or category; names file and entry.
        OSError: the file cannot be read.
    """
    index = _index_of(CocoJson(annotation_file), image_folder)
    give_back_freed_memory()  # after COCO glibc kept 120 MB of 185 for later
    return index


def _index_of(document: CocoJson, image_folder: str | os.PathLike | None) -> AnnotationIndex:
    ids = CocoIds()
    categories = read_categories(document, ids)
    images = read_images(document, ids)
    annotations = read_annotations(document, ids)
    category_ids = np.array([category.id for category in categories])
    rows = positions_of(annotations.image_ids, images.ids)
    labels = positions_of(annotations.category_ids, category_ids) + 1
    _refuse_unknown(document.path, annotations, ids, rows, labels)
    read_missing_sizes(document.path, images, image_folder)
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
        accepted=dict(_accepted(ids, images, annotations)),
    )


def read_missing_sizes(path: str, images: Images, image_folder: str | os.PathLike | None) -> None:
    """Fill in `images.sizes`, from the files, where the annotations have no width or height.

    Raises:
        ValueError: a file is not there, or is no image; names it and its entry.
    """
    rows = np.flatnonzero(~images.has_size)
    if not len(rows):
        return

    def size_of(row: int) -> tuple[int, int]:
        name = images.names[row]
        place = os.path.join(image_folder or "", name)
        if image_folder is None or not os.path.isfile(place):
            raise ValueError(
                f"{path}: image {images.ids[row]} ({name}) has no width and height, and there is "
                f"no such file in {image_folder or 'a folder of images'} to read them from; write "
                "its true width and height into its entry"
            )
        return image_size(place)

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        images.sizes[rows] = list(pool.map(size_of, rows))


def _accepted(ids: CocoIds, images: Images, annotations: Annotations) -> Iterator[tuple[str, int]]:
    """Count what the file lacks or has in another form, by kind."""
    counts = {
        "images without width and height, read from their files": ~images.has_size,
        "images whose id is text, taken as a number": images.has_text_id,
        "annotations with ids that are text, taken as numbers": annotations.has_text_id,
        "annotations without area, taken as width x height": ~(
            np.abs(annotations.areas) < NOT_FINITE
        ),
        "annotations without iscrowd, taken as 0": annotations.iscrowd < 0,
    }
    if ids.categories.count:
        yield "categories whose id is text, taken as a number", ids.categories.count
    for what, rows in counts.items():
        if rows.any():
            yield what, int(rows.sum())


def _category(label: int, record: CategoryRecord) -> Category:
    original = record.id if record.original_id is None else record.original_id
    return Category(label, record.id, original, record.name)


def _refuse_unknown(
    path: str, annotations: Annotations, ids: CocoIds, rows: np.ndarray, labels: np.ndarray
) -> None:
    for what, unknown, numbers, texts in (
        ("image", rows < 0, annotations.image_ids, ids.images),
        ("category", labels < 1, annotations.category_ids, ids.categories),
    ):
        if unknown.any():
            first = int(np.argmax(unknown))
            number = numbers[first]
            owner = f"has unknown {what} {texts.shown(number)}"
            if number == MISSING_ID:
                owner = f"has no {what}_id"
            raise ValueError(
                f"{path}: annotation {annotations.ids[first]} {owner} ({int(unknown.sum())} such "
                "annotations); run fix_coco_annotations.py to drop them"
            )
