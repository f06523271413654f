"""Areas of boxes, and what each box of one list has in common with each of another."""

import torch
from torch import Tensor


def pairwise_intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection areas [B, M, P] of boxes [B, M, 4] and others [P, 4] or [B, P, 4].

    All are xyxy in one unit.
    """
    left, top, right, bottom = boxes.split(1, dim=-1)  # each [B, M, 1]
    # [4, P], contiguous: eight times as fast as strided columns of [P, 4].
    by_side = others.transpose(-1, -2).contiguous()
    other_left, other_top, other_right, other_bottom = by_side.split(1, dim=-2)
    width = torch.minimum(right, other_right).sub_(torch.maximum(left, other_left))
    height = torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top))
    return width.clamp_(min=0).mul_(height.clamp_(min=0))


def areas(boxes: Tensor) -> Tensor:
    """Return the areas [...] of xyxy boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
