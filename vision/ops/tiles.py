"""Tiles of photos that are much larger than the input, and what is found in them joined again.

A photo is looked at whole, which shows its large objects, and in N x N overlapping tiles, which
show the small ones larger. This is the slicing of Akyon et al. 2022, "Slicing Aided Hyper Inference
and Fine-tuning for Small Object Detection" (SAHI), with its overlap and its look at the whole
photo; the number of tiles is given here, not their size in pixels, so that photos of any size cost
the same.

`vision/deploy/detect.py`, which is copied to devices alone, has `tile_rectangles` and the join in
NumPy; a test compares them.
"""

import numpy as np
import torch
from torch import Tensor

from vision.ops.nms import batched_nms

MAX_TILES = 16  # a side
# Neighbouring tiles share a fifth of a tile, so an object up to that size is whole in one of them.
_OVERLAP_PARTS = 5
# A box cut by a tile's edge is learned, clipped, if so much of its area is inside; else it is
# ignored: neither an object nor background.
LEAST_INSIDE = 0.5
# A detection that ends within this share of a tile's side from its edge counts as cut by it.
EDGE = 0.01


def num_views(tiles: int) -> int:
    """Count what the network sees of a photo: the whole, and where there are more its tiles."""
    return 1 if tiles == 1 else 1 + tiles * tiles


def tile_growth(tiles: int) -> float:
    """Return how many times as large an object is on the input in a tile as in the whole photo."""
    return tiles - (tiles - 1) / _OVERLAP_PARTS


def tile_rectangles(sizes: np.ndarray, tiles: int) -> np.ndarray:
    """Return what the network sees of photos, each as x1, y1, x2, y2 in whole pixels.

    Args:
        sizes: (height, width) of photos, int [I, 2].
        tiles: along each side.

    Returns:
        int64 [I, V, 4]: the whole photo, then the tiles, row by row from the top left.
    """
    height, width = np.asarray(sizes, np.int64).T
    zero = np.zeros_like(height)
    views = [(zero, zero, width, height)]
    if tiles > 1:
        columns = _places(width, tiles)
        views += [(x1, y1, x2, y2) for y1, y2 in _places(height, tiles) for x1, x2 in columns]
    return np.stack([np.stack(view, axis=-1) for view in views], axis=1)


def _places(length: np.ndarray, tiles: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide lengths [I] into overlapping parts of one size, as (first, end) of each."""
    parts = _OVERLAP_PARTS
    side = -(-parts * length // (tiles * parts - (tiles - 1)))  # rounded up
    starts = [i * (length - side) // (tiles - 1) for i in range(tiles)]
    return [(start, start + side) for start in starts]


def whole_size(image_size: tuple[int, int], tiles: int) -> tuple[int, int]:
    """Return (height, width) of a photo whose tiles have the size of the input, or a bit less."""
    height, width = (
        side * (tiles * _OVERLAP_PARTS - (tiles - 1)) / _OVERLAP_PARTS for side in image_size
    )
    return int(height), int(width)


def relative_views(tiles: int) -> np.ndarray:
    """Return what the network sees of any photo, xyxy in 0..1 of its sides: float64 [V, 4]."""
    unit = 1 << 20
    return tile_rectangles(np.array([(unit, unit)]), tiles)[0] / unit


def share_inside(boxes: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Return what share of each box's area is inside its rectangle: both xyxy [N, 4] -> [N]."""
    low = np.maximum(boxes[:, :2], rectangles[:, :2])
    high = np.minimum(boxes[:, 2:], rectangles[:, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return (high - low).clip(0).prod(axis=1) / np.maximum(area, 1e-9)


def join_views(
    found: list[dict[str, Tensor]],
    rectangles: list[tuple[int, int, int, int]],
    *,
    iou_threshold: float,
) -> dict[str, Tensor]:
    """Join what was found in the views of one photo.

    Args:
        found: for each view `boxes` [N, 4] xyxy in its pixels, `scores` [N] and `labels` [N].
        rectangles: the views in the photo, from `tile_rectangles`.
        iou_threshold: of two boxes of a class with a higher IoU the better one stays.

    Returns:
        The same three, boxes in the photo's pixels, best score first.
    """
    boxes = torch.cat(
        [
            result["boxes"] + result["boxes"].new_tensor([x1, y1, x1, y1])
            for result, (x1, y1, _, _) in zip(found, rectangles, strict=True)
        ]
    )
    scores, labels = (torch.cat([result[key] for result in found]) for key in ("scores", "labels"))
    counts = [len(result["scores"]) for result in found]
    views = np.repeat(np.array(rectangles), counts, axis=0)
    is_cut = cut_by_edge(boxes, boxes.new_tensor(views), rectangles[0])
    order = scores.masked_fill(is_cut, -torch.inf).argsort(descending=True, stable=True)
    order = order[: int((~is_cut).sum())]
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    if not len(order):
        return {"boxes": boxes, "scores": scores, "labels": labels}
    keep = batched_nms(boxes[None], scores[None], labels=labels[None], iou_threshold=iou_threshold)
    return {"boxes": boxes[keep[0]], "scores": scores[keep[0]], "labels": labels[keep[0]]}


def cut_by_edge(
    boxes: Tensor, views: Tensor, photo: tuple[int, int, int, int], *, edge: float = EDGE
) -> Tensor:
    """Tell which boxes end at an edge of their tile that is no edge of the photo.

    Args:
        boxes: xyxy [N, 4] in the photo's pixels.
        views: where each was found, xyxy [N, 4].
        photo: the whole photo, xyxy.
        edge: how near is at the edge, as a share of the tile's side.

    Returns:
        bool [N].
    """
    margin = edge * (views[:, 2:] - views[:, :2])
    is_inner = views != views.new_tensor(photo)
    at_low = is_inner[:, :2] & (boxes[:, :2] <= views[:, :2] + margin)
    at_high = is_inner[:, 2:] & (boxes[:, 2:] >= views[:, 2:] - margin)
    return (at_low | at_high).any(dim=1)
