"""Fit the shapes of the priors to boxes, map by map.

k-means over all boxes and shapes (Redmon and Farhadi 2017, section 2) would put the priors where
most boxes are: narrow and alike, none for sizes that are rare, and large ones on a fine map that
cannot see large objects. Here each map is fitted to the boxes of its own sizes only: from its own
smallest prior up to the next map's, and the first map to all smaller ones. Its own priors count as
boxes too, so a map that few boxes belong to stays as it is. Where many boxes are smaller than the
first map's priors, this is tried with all maps' sizes made smaller as well, the first map's most
and the last one's not at all: no size up to the whole image is given up.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vision.ops.priors import PriorMap
from vision.priors.boxes import BoxSample

FACTORS = (1.0, 0.7, 0.5, 0.35)  # of the first map's sizes
LEAST_GAIN = 0.01  # of the score, for a smaller factor to be taken
RESTARTS = 4  # of the clustering, from other boxes
ROUNDS = 20  # of moving the shapes, at most
MAX_FITTED = 2_000  # boxes of a map, at random; more change the shapes by a pixel or two
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
    sides, centers = _in_shorter_sides(sample.boxes, image_size)
    best, best_score = tuple(maps), -1.0
    for factor in FACTORS:
        rng = np.random.default_rng(seed)
        fitted, score = [], 0.0
        scaled = _scaled(maps, factor)
        smallest = [min(w * h for w, h in prior_map.shapes) ** 0.5 for prior_map in scaled]
        map_of = np.searchsorted(smallest[1:], np.sqrt(sides.prod(axis=1)), side="right")
        for k, (prior_map, size) in enumerate(zip(scaled, feature_map_sizes, strict=True)):
            rows = np.flatnonzero(map_of == k)
            weight = sample.weights[rows].sum()
            if len(rows) > MAX_FITTED:
                rows = rng.choice(rows, MAX_FITTED, replace=False)
            weights = sample.weights[rows] * (weight / max(sample.weights[rows].sum(), 1e-12))
            offsets = _offsets(centers[rows], prior_map, size, image_size)
            own = np.array(prior_map.shapes)
            own_weight = max(OWN_WEIGHT, OWN_SHARE * weight) / len(own)
            shapes = _cluster(
                np.concatenate([sides[rows], own]),
                np.concatenate([offsets, np.zeros_like(own)]),
                np.concatenate([weights, np.full(len(own), own_weight)]),
                own,
                rng,
            )
            score += _score(_ious(sides[rows], offsets, shapes), weights)
            shapes = np.round(shapes, 4).tolist()
            fitted.append(replace(prior_map, shapes=tuple(map(tuple, shapes))))
        if score > best_score + LEAST_GAIN:
            best, best_score = tuple(fitted), score
    return best


def _scaled(maps: Sequence[PriorMap], factor: float) -> list[PriorMap]:
    """Make the first map's shapes smaller by `factor`, those of the next ones less and less."""
    last = max(1, len(maps) - 1)
    factors = [factor ** (1 - k / last) for k in range(len(maps))]
    return [
        replace(prior_map, shapes=tuple((w * f, h * f) for w, h in prior_map.shapes))
        for prior_map, f in zip(maps, factors, strict=True)
    ]


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
