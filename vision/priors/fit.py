"""Fit the shapes of the priors to boxes, map by map.

k-means over all boxes and shapes (Redmon and Farhadi 2017, section 2) would put the priors where
most boxes are: narrow and alike, none for sizes that are rare, and large ones on a fine map that
cannot see large objects. Here each map is fitted to the boxes of its own sizes only: from its own
smallest prior up to the next map's, and the first map to all smaller ones. Its own priors count as
boxes too, so a map that few boxes belong to stays as it is.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vision.ops.priors import PriorMap
from vision.priors.boxes import BoxSample

RESTARTS = 8  # of the clustering, from other boxes
ROUNDS = 20  # of moving the shapes, at most
MAX_FITTED = 8_000  # boxes of a map; a fit to more differs by less than its rounding
OWN_WEIGHT = 0.02  # of a map's own priors together, where all boxes of all maps have 1
OWN_SHARE = 0.1  # the same, over the weight of the map's boxes, if that is more


def fit_priors(
    maps: Sequence[PriorMap],
    feature_map_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    sample: BoxSample,
    *,
    seed: int = 0,
) -> tuple[PriorMap, ...]:
    """Move the priors to where the boxes are; each map keeps its number of shapes.

    Args:
        maps: the network's own.
        feature_map_sizes: (height, width) of each.
        image_size: input (height, width) in pixels.
        sample: the boxes; a map without any keeps its priors.
        seed: of the clustering.
    """
    rng = np.random.default_rng(seed)
    sides, centers = _in_shorter_sides(sample.boxes, image_size)
    smallest = [min(w * h for w, h in prior_map.shapes) ** 0.5 for prior_map in maps]
    edges = np.array(smallest[1:])
    map_of = np.searchsorted(edges, np.sqrt(sides.prod(axis=1)), side="right")
    fitted = []
    for k, (prior_map, size) in enumerate(zip(maps, feature_map_sizes, strict=True)):
        rows = np.flatnonzero(map_of == k)
        if len(rows) > MAX_FITTED:
            rows = rng.choice(rows, MAX_FITTED, replace=False)
        weight = sample.weights[map_of == k].sum()
        own = np.array(prior_map.shapes)
        offsets = _offsets(centers[rows], prior_map, size, image_size)
        weights = sample.weights[rows] * (weight / max(sample.weights[rows].sum(), 1e-12))
        own_weight = max(OWN_WEIGHT, OWN_SHARE * weight) / len(own)
        shapes = _cluster(
            np.concatenate([sides[rows], own]),
            np.concatenate([offsets, np.zeros_like(own)]),
            np.concatenate([weights, np.full(len(own), own_weight)]),
            own,
            rng,
        )
        fitted.append(replace(prior_map, shapes=tuple(map(tuple, np.round(shapes, 4).tolist()))))
    return tuple(fitted)


def _cluster(
    sides: np.ndarray,
    offsets: np.ndarray,
    weights: np.ndarray,
    own: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Cluster boxes by IoU, from the own shapes and from random boxes; return the best shapes.

    Args:
        sides: (width, height) of the boxes, [N, 2].
        offsets: from each box's centre to its cell's, [N, 2].
        weights: [N].
        own: shapes [K, 2].
        rng: chooses where to begin.
    """
    best, best_score = own, _score(_ious(sides, offsets, own), weights)
    log_sides = np.log(np.maximum(sides, 1e-4))
    chances = weights / weights.sum()
    for restart in range(1 + RESTARTS):
        shapes = own if restart == 0 else sides[rng.choice(len(sides), len(own), p=chances)]
        for _ in range(ROUNDS):
            nearest = _ious(sides, offsets, shapes).argmax(axis=1)
            share = np.bincount(nearest, weights, len(own))
            sums = [np.bincount(nearest, weights * side, len(own)) for side in log_sides.T]
            means = np.exp(np.stack(sums, axis=1) / np.maximum(share, 1e-12)[:, None])
            moved = np.where(share[:, None] > 0, means, shapes)
            if np.allclose(moved, shapes, rtol=1e-3):
                break
            shapes = moved
        score = _score(_ious(sides, offsets, shapes), weights)
        if score > best_score + 1e-9:
            best, best_score = shapes, score
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def _in_shorter_sides(
    boxes: np.ndarray, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (width, height) and centre of boxes [N, 4], in shares of the image's shorter side."""
    unit = np.array(image_size[::-1]) / min(image_size)
    return (boxes[:, 2:] - boxes[:, :2]) * unit, (boxes[:, :2] + boxes[:, 2:]) / 2 * unit


def _offsets(
    centers: np.ndarray,
    prior_map: PriorMap,
    size: tuple[int, int],
    image_size: tuple[int, int],
) -> np.ndarray:
    """Return where the nearest cell's centre is, seen from each centre [N, 2]."""
    rows, columns = size
    pitch = np.array(image_size[::-1]) / min(image_size) / (columns, rows)
    if prior_map.stride:
        pitch = np.full(2, prior_map.stride / min(image_size))
    cell = np.clip(np.floor(centers / pitch), 0, np.array([columns, rows]) - 1)
    return (cell + 0.5) * pitch - centers


def _ious(sides: np.ndarray, offsets: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Return the IoU of each box [N, 2] with each shape [K, 2] in its nearest cell, [N, K]."""
    half_box, half_shape, shift = sides[:, None] / 2, shapes / 2, offsets[:, None]
    overlap = np.minimum(half_box, shift + half_shape) - np.maximum(-half_box, shift - half_shape)
    shared = overlap.clip(0).prod(axis=2)
    union = sides.prod(axis=1)[:, None] + shapes.prod(axis=1) - shared
    return shared / np.maximum(union, 1e-12)


def _score(ious: np.ndarray, weights: np.ndarray) -> float:
    """Say how well the boxes are covered: from 0 at IoU 0.2 to 1 at 0.7 and more, on average."""
    return float(weights @ ((ious.max(axis=1) - 0.2) / 0.5).clip(0, 1))
