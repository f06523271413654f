"""Conversion of box formats, and SSD's encoding of boxes as offsets from priors."""

import math

import torch
from torch import Tensor

CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
# Upper limit of a size offset before exp(), as in torchvision: a very large output of the network
# gives a very large box, which is clipped to the image, not an infinite one.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert centre-size boxes [..., 4] to corner boxes [..., 4]."""
    center, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert corner boxes [..., 4] to centre-size boxes [..., 4]."""
    top_left, bottom_right = boxes.split(2, dim=-1)
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def encode_boxes(boxes: Tensor, priors_cxcywh: Tensor) -> Tensor:
    """Encode boxes as offsets from priors (Liu et al. 2016, section 2.2, with variances).

    Args:
        boxes: xyxy in 0..1, [..., P, 4], with positive width and height.
        priors_cxcywh: [P, 4] in 0..1.

    Returns:
        [..., P, 4]: (dx, dy) over CENTER_VARIANCE and (log w, log h) over SIZE_VARIANCE.
    """
    boxes_cxcywh = xyxy_to_cxcywh(boxes)
    prior_center, prior_size = priors_cxcywh.split(2, dim=-1)
    center, size = boxes_cxcywh.split(2, dim=-1)
    offsets = (center - prior_center) / prior_size / CENTER_VARIANCE
    log_scales = torch.log(size / prior_size) / SIZE_VARIANCE
    return torch.cat([offsets, log_scales], dim=-1)


def decode_boxes(bbox_regression: Tensor, priors_cxcywh: Tensor) -> Tensor:
    """Decode offsets [..., P, 4] from priors [P, 4] into xyxy boxes in 0..1, not clipped."""
    prior_center, prior_size = priors_cxcywh.split(2, dim=-1)
    offsets, log_scales = bbox_regression.split(2, dim=-1)
    center = offsets * CENTER_VARIANCE * prior_size + prior_center
    size = torch.exp((log_scales * SIZE_VARIANCE).clamp(max=MAX_LOG_SCALE)) * prior_size
    return torch.cat([center - size / 2, center + size / 2], dim=-1)
