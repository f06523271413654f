"""Images, annotations and categories of a COCO file as arrays; checks of ids and boxes."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np

from vision.datasets.annotation_index import NOT_FINITE
from vision.datasets.class_names import tidy_name, unique_names
from vision.datasets.coco_ids import CocoIds, id_array, is_text, numbers_or_missing
from vision.datasets.coco_json import AnnotationRecord, CategoryRecord, CocoJson, ImageRecord

NOT_A_BOX = [np.nan] * 4


@dataclass
class Images:
    """The columns of `images`, in file order."""

    ids: np.ndarray  # int64 [I]
    names: list[str]
    sizes: np.ndarray  # int32 [I, 2], (height, width); 0 where the file has none
    has_size: np.ndarray  # bool [I]
    has_text_id: np.ndarray  # bool [I]
    is_renamed: np.ndarray  # bool [I]: the file was found under another spelling, `names` has it


@dataclass
class Annotations:
    """The columns of `annotations`, in file order; missing values are MISSING_ID, NaN or -1."""

    ids: np.ndarray  # int64 [A]
    image_ids: np.ndarray  # int64 [A]
    category_ids: np.ndarray  # int64 [A]
    boxes_xywh: np.ndarray  # float64 [A, 4]; NaN for a box that is missing or not four numbers
    areas: np.ndarray  # float64 [A]
    iscrowd: np.ndarray  # int8 [A]
    has_text_id: np.ndarray  # bool [A]: its own id or one that it refers to is text
    chunks: list[tuple[int, int, int]]  # first byte, byte after the last, number of annotations


def read_images(document: CocoJson, ids: CocoIds) -> Images:
    """Read `images`, and note in `ids` those that are text.

    Raises:
        ValueError: there are none, a size is impossible, or two have the same id.
    """
    what = f"{document.path}: images"
    with without_garbage_collection():
        records = list(chain.from_iterable(c[2] for c in document.chunks("images", ImageRecord)))
        given_ids = [r.id for r in records]
        numbers = id_array(ids.images.define(given_ids), what)
        names = [r.file_name for r in records]
        sizes = np.array([(r.height, r.width) for r in records], dtype=np.float64).reshape(-1, 2)
    if not names:
        raise ValueError(f"{document.path}: no images in it; is this an annotation file?")
    has_size = ~np.isnan(sizes).any(axis=1)
    sizes[~has_size] = 0
    implausible = has_size & ~((sizes >= 1) & (sizes <= NOT_FINITE)).all(axis=1)
    if implausible.any():
        row = int(np.argmax(implausible))
        height, width = sizes[row]
        raise ValueError(
            f"{document.path}: image {numbers[row]} ({names[row]}) has the size {width:g} x "
            f"{height:g} pixels; write its true width and height into its entry"
        )
    duplicate = _first_duplicate(numbers)
    if duplicate is not None:
        both = [names[i] for i in np.flatnonzero(numbers == duplicate)[:2]]
        raise ValueError(
            f"{document.path}: image id {ids.images.shown(duplicate)} is there twice ({both[0]}, "
            f"{both[1]}); give one of them another id"
        )
    has_text_id = is_text(given_ids) if ids.images.count else np.zeros(len(names), bool)
    is_renamed = np.zeros(len(names), bool)
    return Images(numbers, names, sizes.astype(np.int32), has_size, has_text_id, is_renamed)


def read_categories(document: CocoJson, ids: CocoIds) -> list[CategoryRecord]:
    """Read `categories`, sorted by id, which is a number; note in `ids` those that are text.

    Names become one line each, and different ones.

    Raises:
        ValueError: there are none, or two have the same id.
    """
    chunks = document.chunks("categories", CategoryRecord)
    records = list(chain.from_iterable(c[2] for c in chunks))
    if not records:
        raise ValueError(f"{document.path}: no categories in it; is this an annotation file?")
    numbers = ids.categories.define([r.id for r in records])
    for record, number in zip(records, numbers, strict=True):
        record.id = number
    duplicate = _first_duplicate(id_array(numbers, f"{document.path}: categories"))
    if duplicate is not None:
        shown = ids.categories.shown(duplicate)
        raise ValueError(f"{document.path}: category id {shown} is there twice")
    records.sort(key=lambda r: r.id)
    # The ids from before fix_coco_annotations.py, so that its file gives the same names.
    numbers = [r.id if r.original_id is None else r.original_id for r in records]
    if len(set(numbers)) < len(numbers):  # edited since
        numbers = [r.id for r in records]
    names = map(tidy_name, [record.name for record in records], numbers)
    for record, name in zip(records, unique_names(list(names), numbers), strict=True):
        record.name = name
    return records


def read_annotations(document: CocoJson, ids: CocoIds) -> Annotations:
    """Read `annotations`; `ids` is of the images and categories, which are read before.

    Raises:
        ValueError: an entry has another type than in COCO; names the entry.
    """
    columns: list[Annotations] = []
    what = f"{document.path}: annotations"
    with without_garbage_collection():
        for start, stop, records in document.chunks("annotations", AnnotationRecord):
            columns.append(_columns(records, [(start, stop, len(records))], ids, what))
    if not columns:
        return _columns([], [], ids, what)
    names = ("ids", "image_ids", "category_ids", "boxes_xywh", "areas", "iscrowd", "has_text_id")
    arrays = (np.concatenate([getattr(c, name) for c in columns]) for name in names)
    return Annotations(*arrays, chunks=[chunk for c in columns for chunk in c.chunks])


def _columns(records: list[AnnotationRecord], chunks: list, ids: CocoIds, what: str) -> Annotations:
    count = len(records)
    has_text_id = np.zeros(count, bool)
    columns = []
    for given, replace in (
        ([r.id for r in records], numbers_or_missing),
        ([r.image_id for r in records], ids.images.replace),
        ([r.category_id for r in records], ids.categories.replace),
    ):
        column = np.array(given)
        if column.dtype.kind != "i":  # not all are plain numbers
            has_text_id |= is_text(given)
            column = id_array(replace(given), what)
        columns.append(column.astype(np.int64))
    boxes = [r.bbox for r in records]
    if None in boxes or set(map(len, boxes)) - {4}:
        boxes = [NOT_A_BOX if box is None or len(box) != 4 else box for box in boxes]
    crowds = [r.iscrowd for r in records]
    return Annotations(
        ids=columns[0],
        image_ids=columns[1],
        category_ids=columns[2],
        boxes_xywh=np.fromiter(chain.from_iterable(boxes), np.float64, 4 * count).reshape(-1, 4),
        areas=np.array([r.area for r in records], dtype=np.float64),  # None becomes NaN
        iscrowd=np.array([-1 if c is None else c != 0 for c in crowds], dtype=np.int8),
        has_text_id=has_text_id,
        chunks=chunks,
    )


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
