"""Which views of the training images in tiles are trained on: all with boxes, some without."""

import logging
from collections.abc import Sequence

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex
from vision.ops.tiles import LEAST_INSIDE, num_views, share_inside, tile_rectangles

logger = logging.getLogger(__name__)
# Tiles without a box for each tile with one: negatives to learn from, but not so many that most
# steps teach little where photos are mostly empty.
EMPTY_SHARE = 0.25


def choose_views(indices: Sequence[AnnotationIndex], tiles: int, *, seed: int = 0) -> np.ndarray:
    """Choose the views to train on, and log how many of which kind.

    Args:
        indices: of the training split.
        tiles: along each side, 2 or more.
        seed: chooses among the tiles without boxes.

    Returns:
        int64 [N, 2]: (position of the image over all sources, view), in order; view 0, the whole
        image, is always there.
    """
    has_box = np.concatenate([views_with_boxes(index, tiles) for index in indices])
    has_box[:, 0] = False  # counted apart
    empty = np.flatnonzero(~has_box[:, 1:])
    count = min(len(empty), int(EMPTY_SHARE * has_box.sum()))
    kept = np.random.default_rng(seed).choice(empty, count, replace=False)
    chosen = has_box.copy()
    chosen[:, 0] = True
    chosen[:, 1:].flat[kept] = True
    first_tiles = np.concatenate([tile_rectangles(index.sizes, tiles)[:, 1] for index in indices])
    _, _, width, height = np.median(first_tiles, axis=0)
    logger.info(
        "tiles %dx%d: %d images whole, %d tiles with boxes, and %d of %d without; a tile is about "
        "%.0fx%.0f px",
        tiles, tiles, len(has_box), has_box.sum(), count, len(empty), width, height,
    )  # fmt: skip
    return np.argwhere(chosen)


def views_with_boxes(index: AnnotationIndex, tiles: int) -> np.ndarray:
    """Tell which views of each image have a box to learn: bool [I, V]."""
    rows = np.flatnonzero(index.trainable & ~index.iscrowd)
    images = index.images_of_boxes()[rows]
    boxes = index.clipped_boxes[rows].astype(np.float64)
    rectangles = tile_rectangles(index.sizes, tiles)
    found = np.zeros((len(index), num_views(tiles)), bool)
    for view in range(num_views(tiles)):
        is_inside = share_inside(boxes, rectangles[images, view]) >= LEAST_INSIDE
        found[images[is_inside], view] = True
    return found
