"""The boxes that priors are fitted to: as they are, and as augmentation makes them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex
from vision.ops.tiles import LEAST_INSIDE, relative_views, share_inside, tile_rectangles
from vision.transforms.geometry import place_boxes, place_view
from vision.transforms.presets import ViewTransform

MAX_BOXES = 20_000  # for the shares that are stated, too
FEWEST_VIEWS = 500  # of augmented images, so that few images give many views


class BoxSample(NamedTuple):
    """Boxes at the input size.

    Attributes:
        boxes: float32 [N, 4], xyxy in 0..1 of the input's sides.
        labels: int64 [N], 1..C.
        weights: float64 [N], their sum is 1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def own_boxes(indices: Sequence[AnnotationIndex], *, seed: int = 0, tiles: int = 1) -> BoxSample:
    """Take the training boxes as evaluation sees them: the whole image, stretched to the input.

    With tiles each box is there as often as a view shows it, cut by the tile's edge.

    Args:
        indices: of the training split.
        tiles: along each side of an image.
        seed: chooses MAX_BOXES of more.
    """
    boxes, labels = [], []
    for index in indices:
        counts = np.diff(index.box_offsets)
        sizes = np.repeat(index.sizes[:, ::-1], counts, axis=0)  # (width, height)
        is_object = index.trainable & ~index.iscrowd
        boxes.append((index.clipped_boxes / np.tile(sizes, 2))[is_object])
        labels.append(index.labels[is_object])
    boxes, rows = seen_in_views(np.concatenate(boxes), tiles)
    return _sample(boxes, np.concatenate(labels)[rows], seed)


def seen_in_views(boxes: np.ndarray, tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes as the views of a photo in tiles show them; each as often as it is learned.

    Args:
        boxes: xyxy [N, 4] in 0..1 of the photo's sides.
        tiles: along each side; with 1 the boxes are returned as they are.

    Returns:
        boxes [M, 4] in 0..1 of the views' sides, cut there, and their rows in `boxes`, int64 [M].
    """
    if tiles == 1:
        return boxes, np.arange(len(boxes))
    seen, rows = [], []
    for view in relative_views(tiles):
        inside = np.flatnonzero(share_inside(boxes, view[None]) >= LEAST_INSIDE)
        low, side = np.tile(view[:2], 2), np.tile(view[2:] - view[:2], 2)
        seen.append(((boxes[inside] - low) / side).clip(0, 1))
        rows.append(inside)
    return np.concatenate(seen), np.concatenate(rows)


def augmented_boxes(
    indices: Sequence[AnnotationIndex],
    transform: ViewTransform,
    *,
    seed: int = 0,
    tiles: int = 1,
) -> BoxSample:
    """Draw the boxes that a transform makes of the training images; no pixel is read.

    Args:
        indices: of the training split.
        transform: the run's own.
        seed: of images and views.
        tiles: along each side of an image; each time one of its views is drawn.
    """
    rng = np.random.default_rng(seed)
    places = np.concatenate(
        [np.stack([np.full(len(index), k), np.arange(len(index))], 1)
         for k, index in enumerate(indices)]
    )  # fmt: skip
    chosen = rng.permutation(len(places))[: 4 * FEWEST_VIEWS]
    rounds = -(-FEWEST_VIEWS // max(1, len(chosen)))
    height, width = transform.image_size
    boxes, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
    for k, image in places[np.tile(chosen, rounds)].tolist():
        index = indices[k]
        rows = slice(index.box_offsets[image], index.box_offsets[image + 1])
        used = index.trainable[rows]
        target = {
            "boxes": index.clipped_boxes[rows][used],
            "labels": index.labels[rows][used].astype(np.int64),
            "iscrowd": index.iscrowd[rows][used],
        }
        size = tuple(index.sizes[image].tolist())
        if tiles > 1:
            views = tile_rectangles([size], tiles)[0]
            target["view"] = tuple(views[rng.integers(len(views))].tolist())
        plan = transform.plan(size, target, rng)
        placement = place_view(plan.view, size, transform.image_size)
        placed = place_boxes(target, placement, output_width=width, flip=plan.flip)
        is_object = ~placed["iscrowd"]
        boxes.append(placed["boxes"][is_object])
        labels.append(placed["labels"][is_object])
    shares = np.concatenate(boxes) / np.array([width, height] * 2, np.float32)
    return _sample(shares, np.concatenate(labels), seed)


def join(own: BoxSample, augmented: BoxSample) -> BoxSample:
    """Put the two together: what is to be found counts twice as much as what teaches it.

    Augmented boxes smaller than nearly all of those that are to be found are left out: zooming out
    makes many, and priors for them would be missing elsewhere.
    """
    smallest = np.quantile(_sizes(own), 0.02) if len(own.boxes) else 0.0
    kept = _sizes(augmented) >= smallest
    weights = augmented.weights * kept
    return BoxSample(
        np.concatenate([own.boxes, augmented.boxes[kept]]),
        np.concatenate([own.labels, augmented.labels[kept]]),
        np.concatenate([2 * own.weights, weights[kept] / max(weights.sum(), 1e-12)]) / 3,
    )


def _sizes(sample: BoxSample) -> np.ndarray:
    return np.sqrt((sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1))


def _sample(boxes: np.ndarray, labels: np.ndarray, seed: int) -> BoxSample:
    if len(boxes) > MAX_BOXES:
        chosen = np.random.default_rng(seed).choice(len(boxes), MAX_BOXES, replace=False)
        boxes, labels = boxes[chosen], labels[chosen]
    return BoxSample(boxes.astype(np.float32), labels.astype(np.int64), class_weights(labels))


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weigh classes alike, so that a rare one counts; those of under 20 boxes count less.

    Returns:
        float64 [N], their sum is 1 (of no boxes: 0).
    """
    counts = np.bincount(labels, minlength=1)
    weights = (np.minimum(counts, 20) / np.maximum(counts, 1))[labels]
    return weights / max(weights.sum(), 1e-12)
