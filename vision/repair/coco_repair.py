"""Planning the repair of a COCO annotation file: sequential category ids, broken annotations."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vision.datasets.annotation_index import NOT_FINITE, clip_boxes, finite_boxes
from vision.datasets.coco_folder import image_folder_of
from vision.datasets.coco_ids import MISSING_ID, CocoIds
from vision.datasets.coco_index import (
    check_box_form,
    find_doubts,
    find_image_files,
    read_missing_sizes,
)
from vision.datasets.coco_json import CategoryRecord, CocoJson
from vision.datasets.coco_kinds import refuse_other_kinds
from vision.datasets.coco_tables import (
    Annotations,
    Images,
    positions_of,
    read_annotations,
    read_categories,
    read_images,
)


@dataclass
class Repair:
    """The changes that one annotation file needs; nothing is written yet."""

    document: CocoJson
    categories: list[CategoryRecord]  # sorted by id; the position is the new id
    ids: CocoIds
    images: Images  # with the sizes that the file lacks
    annotations: Annotations
    found: dict[str, np.ndarray]  # kind of defect -> bool [A]; only kinds that occur
    drop: np.ndarray  # bool [A]
    new_ids: np.ndarray  # int64 [A]; MISSING_ID where the annotation keeps its id
    set_area: np.ndarray  # bool [A]
    set_iscrowd: np.ndarray  # bool [A]
    doubts: list[str]  # what contradicts itself, in words; nothing is done about it

    @cached_property
    def new_category_ids(self) -> dict[int, int]:
        """Map from the id in the file to the sequential id from 0."""
        return {category.id: new for new, category in enumerate(self.categories)}

    @cached_property
    def renumbers(self) -> bool:
        """Whether category ids or their `original_id` have to be changed."""
        return bool(self.ids.categories.count) or any(
            c.id != new or c.original_id is None for new, c in enumerate(self.categories)
        )

    @cached_property
    def changed_images(self) -> np.ndarray:
        """bool [I]: images that get a size, a number for an id, or the name of their file."""
        return ~self.images.has_size | self.images.has_text_id | self.images.is_renamed

    @property
    def is_needed(self) -> bool:
        """Whether the file needs any change."""
        return self.renumbers or bool(self.found) or bool(self.changed_images.any())

    def class_list(self) -> list[tuple[int, str]]:
        """List (original id, name), sorted by id; equal for all files of a data set."""
        return [(c.id if c.original_id is None else c.original_id, c.name) for c in self.categories]


def plan_repair(path: str | os.PathLike) -> Repair:
    """Read an annotation file and find the changes it needs.

    Raises:
        ValueError: malformed JSON (names the byte offset), not an annotation file, or the same id
            for two images or two categories.
        OSError: the file cannot be read.
    """
    document = CocoJson(path)
    refuse_other_kinds(document)
    ids = CocoIds()
    categories, images = read_categories(document, ids), read_images(document, ids)
    annotations = read_annotations(document, ids)
    image_folder = image_folder_of(Path(path))
    if image_folder is not None:
        find_image_files(images, image_folder)
    read_missing_sizes(document.path, images, image_folder)
    check_box_form(
        document.path, annotations, images, positions_of(annotations.image_ids, images.ids)
    )
    dropped = _dropped(annotations, images, categories)
    drop = np.logical_or.reduce([*dropped.values()])
    renumbered, new_ids = _new_ids(annotations.ids, ~drop)
    set_area = ~drop & ~(np.abs(annotations.areas) < NOT_FINITE)
    set_iscrowd = ~drop & (annotations.iscrowd < 0)
    found = {
        **dropped,
        **renumbered,
        _TEXT_ID: ~drop & annotations.has_text_id,
        _AREA: set_area,
        _ISCROWD: set_iscrowd,
    }
    found = {what: rows for what, rows in found.items() if rows.any()}
    return Repair(
        document, categories, ids, images, annotations, found, drop, new_ids, set_area, set_iscrowd,
        doubts=list(find_doubts(images, annotations)),
    )  # fmt: skip


_TEXT_ID = "with ids that are text, given numbers"
_AREA = "without area, given width x height"
_ISCROWD = "without iscrowd, given 0"


def _dropped(
    annotations: Annotations, images: Images, categories: list[CategoryRecord]
) -> dict[str, np.ndarray]:
    """Find the annotations to drop: {reason: bool [A]}, each under its first reason only."""
    rows = positions_of(annotations.image_ids, images.ids)
    known = np.isin(annotations.category_ids, [category.id for category in categories])
    finite = finite_boxes(annotations.boxes_xywh)
    clipped = clip_boxes(annotations.boxes_xywh, images.sizes[rows])
    has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    reasons = {
        "of a category that does not exist, dropped": ~known,
        "of an image that does not exist, dropped": rows < 0,
        "without a box of four finite numbers, dropped": ~finite,
        "whose box has no area inside the image, dropped": ~has_area,
    }
    seen = np.zeros(len(rows), bool)
    for reason, bad in reasons.items():
        reasons[reason] = bad & ~seen
        seen |= bad
    return reasons


def _new_ids(ids: np.ndarray, kept: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Choose new ids for annotations without an id, with id 0, or with the id of an earlier one.

    Id 0 is replaced because pycocotools takes a match with that id for "not matched".

    Returns:
        {reason: bool [A]}, and the new ids int64 [A], MISSING_ID where the id is kept.
    """
    rows = np.flatnonzero(kept)
    repeated = np.zeros(len(ids), bool)
    repeated[rows] = True
    repeated[rows[np.unique(ids[rows], return_index=True)[1]]] = False
    absent, zero = kept & (ids == MISSING_ID), kept & (ids == 0)
    repeated &= ~absent & ~zero
    change = absent | zero | repeated
    new_ids = np.full(len(ids), MISSING_ID)
    new_ids[change] = max(0, ids.max(initial=0)) + 1 + np.arange(change.sum())
    reasons = {
        "without an id, numbered": absent,
        "with id 0, renumbered": zero,
        "with the id of an earlier one, renumbered": repeated,
    }
    return reasons, new_ids


def check_same_classes(repairs: list[Repair]) -> None:
    """Check that all files have the same categories, so that train and val get the same new ids.

    Raises:
        ValueError: two files have different categories; names the first difference.
    """
    for other in repairs[1:]:
        first, second = repairs[0].class_list(), other.class_list()
        if first != second:
            only = sorted(set(first) ^ set(second)) or second
            holder = repairs[0] if only[0] in first else other
            raise ValueError(
                f"{other.document.path} has other categories than {repairs[0].document.path}: "
                f"id {only[0][0]} {only[0][1]!r} is only in {holder.document.path}; give both "
                "files the same list, so that they get the same ids"
            )
