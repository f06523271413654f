"""Images, annotations and categories of a COCO file as arrays; checks of ids and boxes."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np

from vision.datasets.annotation_index import NOT_FINITE
from vision.datasets.coco_json import (
    MISSING_ID,
    AnnotationRecord,
    CategoryRecord,
    CocoJson,
    ImageRecord,
)

NOT_A_BOX = [np.nan] * 4


@dataclass
class Images:
    """The columns of `images`, in file order."""

    ids: np.ndarray  # int64 [I]
    names: list[str]
    sizes: np.ndarray  # int32 [I, 2], (height, width)


@dataclass
class Annotations:
    """The columns of `annotations`, in file order; missing values are MISSING_ID, NaN or -1."""

    ids: np.ndarray  # int64 [A]
    image_ids: np.ndarray  # int64 [A]
    category_ids: np.ndarray  # int64 [A]
    boxes_xywh: np.ndarray  # float64 [A, 4]; NaN for a box that is missing or not four numbers
    areas: np.ndarray  # float64 [A]
    iscrowd: np.ndarray  # int8 [A]
    chunks: list[tuple[int, int, int]]  # first byte, byte after the last, number of annotations


def read_images(document: CocoJson) -> Images:
    """Read `images`.

    Raises:
        ValueError: there are none, a size is impossible, or two have the same id.
    """
    with without_garbage_collection():
        records = list(chain.from_iterable(c[2] for c in document.chunks("images", ImageRecord)))
        ids = _id_array([r.id for r in records], f"{document.path}: images")
        names = [r.file_name for r in records]
        sizes = np.array([(r.height, r.width) for r in records]).reshape(-1, 2)
    if not names:
        raise ValueError(f"{document.path}: no images in it; is this an annotation file?")
    implausible = ~((sizes >= 1) & (sizes <= NOT_FINITE)).all(axis=1)
    if implausible.any():
        row = int(np.argmax(implausible))
        height, width = sizes[row]
        raise ValueError(
            f"{document.path}: image {ids[row]} ({names[row]}) has the size {width} x {height} "
            "pixels; write its true width and height into its entry"
        )
    duplicate = _first_duplicate(ids)
    if duplicate is not None:
        both = [names[i] for i in np.flatnonzero(ids == duplicate)[:2]]
        raise ValueError(
            f"{document.path}: image id {duplicate} is there twice ({both[0]}, {both[1]}); "
            "give one of them another id"
        )
    return Images(ids, names, sizes.astype(np.int32))


def read_categories(document: CocoJson) -> list[CategoryRecord]:
    """Read `categories`, sorted by id.

    Raises:
        ValueError: there are none, or two have the same id.
    """
    chunks = document.chunks("categories", CategoryRecord)
    records = sorted(chain.from_iterable(c[2] for c in chunks), key=lambda r: r.id)
    if not records:
        raise ValueError(f"{document.path}: no categories in it; is this an annotation file?")
    ids = _id_array([r.id for r in records], f"{document.path}: categories")
    duplicate = _first_duplicate(ids)
    if duplicate is not None:
        raise ValueError(f"{document.path}: category id {duplicate} is there twice")
    return records


def read_annotations(document: CocoJson) -> Annotations:
    """Read `annotations`.

    Raises:
        ValueError: an entry has another type than in COCO; names the entry.
    """
    columns: list[Annotations] = []
    what = f"{document.path}: annotations"
    with without_garbage_collection():
        for start, stop, records in document.chunks("annotations", AnnotationRecord):
            columns.append(_columns(records, [(start, stop, len(records))], what))
    if not columns:
        return _columns([], [], what)
    names = ("ids", "image_ids", "category_ids", "boxes_xywh", "areas", "iscrowd")
    arrays = (np.concatenate([getattr(c, name) for c in columns]) for name in names)
    return Annotations(*arrays, chunks=[chunk for c in columns for chunk in c.chunks])


def _columns(records: list[AnnotationRecord], chunks: list, what: str) -> Annotations:
    count = len(records)
    boxes = [r.bbox for r in records]
    if None in boxes or set(map(len, boxes)) - {4}:
        boxes = [NOT_A_BOX if box is None or len(box) != 4 else box for box in boxes]
    crowds = [r.iscrowd for r in records]
    return Annotations(
        ids=_id_array([r.id for r in records], what),
        image_ids=_id_array([r.image_id for r in records], what),
        category_ids=_id_array([r.category_id for r in records], what),
        boxes_xywh=np.fromiter(chain.from_iterable(boxes), np.float64, 4 * count).reshape(-1, 4),
        areas=np.array([r.area for r in records], dtype=np.float64),  # None becomes NaN
        iscrowd=np.array([-1 if c is None else c != 0 for c in crowds], dtype=np.int8),
        chunks=chunks,
    )


def _id_array(ids: list, what: str) -> np.ndarray:
    """Convert ids to int64 [N]; None becomes MISSING_ID, 3.0 becomes 3, 3.5 is a ValueError."""
    if None in ids:
        ids = [MISSING_ID if number is None else number for number in ids]
    array = np.array(ids)
    if array.dtype.kind == "i":
        return array.astype(np.int64)
    wrong = [number for number in ids if number % 1 or not -(2**63) <= number < 2**63]
    if wrong:
        raise ValueError(f"{what}: the id {wrong[0]} is not a whole number of 64 bits")
    return np.array([int(number) for number in ids], dtype=np.int64)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pause Python's garbage collector, which would scan the million new lists again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first_duplicate(ids: np.ndarray) -> int | None:
    """Return an id that occurs more than once, or None."""
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if len(repeated) else None


def positions_of(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return for each of `wanted` [N] its position in the unique `ids` [M], -1 if it is missing."""
    order = np.argsort(ids, kind="stable")
    places = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[places] == wanted, places, -1)
