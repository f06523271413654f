"""Priors (default boxes, anchors): the boxes that the network predicts offsets from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, sqrt

import torch
from torch import Tensor


@dataclass(frozen=True)
class PriorMap:
    """The priors of one feature map, the same in each of its cells.

    Attributes:
        shapes: (width, height) of each, as shares of the image's shorter side, so that any input
            size works and a square stays one.
        stride: input pixels a cell; None: the cells share the image evenly. At 300 px a map of
            stride 16 has 19 cells, 304 px in all: the networks of that size were trained with
            centres at 8, 24, ... and not at multiples of 300 / 19.
        clamp_centers: move centres beyond the edge, of a last cell that is partly outside, onto it.
    """

    shapes: tuple[tuple[float, float], ...]
    stride: float | None = None
    clamp_centers: bool = True


def growing_sizes(
    sizes: Sequence[float],
    *,
    aspect_ratios: Sequence[Sequence[float]],
    strides: Sequence[float | None] = (),
    clamp_centers: bool = True,
) -> tuple[PriorMap, ...]:
    """Make priors that grow from map to map (Liu et al. 2016, section 2.2).

    Map k has squares of sizes[k] and sqrt(sizes[k] * sizes[k + 1]), and for each of its aspect
    ratios r two priors of the area of the first square, r:1 and 1:r.

    Args:
        sizes: one more than there are maps, growing, as shares of the image's shorter side.
        aspect_ratios: of each map.
        strides: of the first maps, see PriorMap; the others have None.
        clamp_centers: see PriorMap.

    Raises:
        ValueError: the sizes do not grow from more than 0, or are too few or too many.
    """
    num_maps = len(aspect_ratios)
    if len(sizes) != num_maps + 1 or not all(
        0 < small < large < inf for small, large in pairwise(sizes)
    ):
        raise ValueError(
            f"prior sizes {tuple(sizes)}: give {num_maps + 1} growing shares of the image, "
            "such as 0.1 0.2 0.35 ..."
        )
    strides = [*strides, *[None] * (num_maps - len(strides))]
    return tuple(
        PriorMap(_growing_shapes(*around, ratios), stride, clamp_centers)
        for around, ratios, stride in zip(pairwise(sizes), aspect_ratios, strides, strict=True)
    )


def _growing_shapes(
    size: float, next_size: float, aspect_ratios: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    between = sqrt(size * next_size)
    shapes = [(size, size), (between, between)]
    for ratio in aspect_ratios:
        long, short = size * sqrt(ratio), size / sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return tuple(shapes)


def build_priors(
    feature_map_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    maps: Sequence[PriorMap],
) -> Tensor:
    """Build the priors of all feature maps (Liu et al. 2016, section 2.2).

    Args:
        feature_map_sizes: (height, width) of each map.
        image_size: input (height, width) in pixels.
        maps: the priors of each map.

    Returns:
        [P, 4] cxcywh in 0..1, ordered by map, row, column, then shape.
    """
    height, width = image_size
    shorter = min(image_size)
    priors = []
    for (rows, columns), prior_map in zip(feature_map_sizes, maps, strict=True):
        stride_y = prior_map.stride or height / rows
        stride_x = prior_map.stride or width / columns
        center_y = (torch.arange(rows, dtype=torch.float64) + 0.5) * (stride_y / height)
        center_x = (torch.arange(columns, dtype=torch.float64) + 0.5) * (stride_x / width)
        centers = torch.cartesian_prod(center_y, center_x).flip(-1)  # [rows * columns, 2], (x, y)
        if prior_map.clamp_centers:
            centers = centers.clamp(0, 1)
        shapes = torch.tensor(prior_map.shapes)  # float32, as the golden priors were made
        shapes = shapes.double() * shorter / torch.tensor([width, height])  # [K, 2]
        num_cells, num_shapes = len(centers), len(shapes)
        priors.append(
            torch.cat(
                [
                    centers[:, None].expand(num_cells, num_shapes, 2),
                    shapes.clamp(0, 1)[None].expand(num_cells, num_shapes, 2),
                ],
                dim=-1,
            ).reshape(-1, 4)
        )
    return torch.cat(priors).float()
