"""Priors (default boxes, anchors): the boxes that the network predicts offsets from."""

from collections.abc import Sequence
from itertools import product
from math import sqrt

import torch
from torch import Tensor


def build_priors(
    feature_map_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    *,
    sizes: Sequence[float],
    aspect_ratios: Sequence[int],
    strides: Sequence[int],
) -> Tensor:
    """Build the priors of all feature maps (Liu et al. 2016, section 2.2).

    Args:
        feature_map_sizes: (height, width) of each map, largest map first.
        image_size: input (height, width) in pixels.
        sizes: one more than there are maps, as fractions of the image's shorter side.
        aspect_ratios: width / height; each ratio is used for a wide and for a tall prior.
        strides: cell size of the first maps in pixels; a later map's is image size / map size.

    Returns:
        [P, 4] cxcywh in 0..1, clamped, ordered by map, row, column, then shape.
    """
    height, width = image_size
    shorter = min(image_size)
    priors = []
    for index, (rows, columns) in enumerate(feature_map_sizes):
        stride_y = strides[index] if index < len(strides) else height / rows
        stride_x = strides[index] if index < len(strides) else width / columns
        center_y = (torch.arange(rows, dtype=torch.float64) + 0.5) * (stride_y / height)
        center_x = (torch.arange(columns, dtype=torch.float64) + 0.5) * (stride_x / width)
        centers = torch.cartesian_prod(center_y, center_x).flip(-1)  # [rows * columns, 2], (x, y)
        shapes = torch.tensor(_shapes(sizes[index], sizes[index + 1], aspect_ratios))
        shapes = shapes.double() * shorter / torch.tensor([width, height])  # [K, 2]
        num_cells, num_shapes = len(centers), len(shapes)
        priors.append(
            torch.cat(
                [
                    centers[:, None].expand(num_cells, num_shapes, 2),
                    shapes[None].expand(num_cells, num_shapes, 2),
                ],
                dim=-1,
            ).reshape(-1, 4)
        )
    return torch.cat(priors).clamp(0, 1).float()


def _shapes(size: float, next_size: float, aspect_ratios: Sequence[int]) -> list[tuple]:
    """Return one map's prior shapes (width, height): two squares, then each ratio wide and tall."""
    between = sqrt(size * next_size)
    shapes = [(size, size), (between, between)]
    for ratio, wide in product(aspect_ratios, (True, False)):
        long, short = size * sqrt(ratio), size / sqrt(ratio)
        shapes.append((long, short) if wide else (short, long))
    return shapes
