"""Box voting: a detection moves to the mean of the boxes that suppression removed around it."""

import torch
from torch import Tensor

from vision.ops.nms import PADDING

NUM_VOTERS = 400  # an image's best; as many as exported graphs look at, so that results are equal


def vote_boxes(
    boxes: Tensor, scores: Tensor, *, labels: Tensor, chosen: Tensor, iou_threshold: float
) -> Tensor:
    """Move the chosen boxes to the mean of their class's boxes around them, weighted by score.

    Gidaris and Komodakis 2015 (arXiv 1505.01749), section 5, "bounding box voting". Priors beside
    each other find one object several times, each a little wrong in its own way.

    Args:
        boxes: xyxy in any unit, [B, K, 4].
        scores: [B, K], above 0, best first; entries with score PADDING are not boxes. The first
            NUM_VOTERS have a vote.
        labels: int64 [B, K]; boxes with different labels have no vote on each other.
        chosen: bool [B, K], none of them PADDING.
        iou_threshold: a box has a vote on those with which it has a higher IoU.

    Returns:
        [B, K, 4]. Boxes that are not chosen stay, and those without area, which overlap nothing.
    """
    first = chosen.byte().argsort(dim=1, descending=True, stable=True)
    rows = first[:, : int(chosen.sum(dim=1).max())]  # [B, N], the chosen ones of each image, padded
    own = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    weights = scores[:, :NUM_VOTERS]  # [B, V]
    is_box = weights > PADDING
    weights = weights.masked_fill(~is_box, 0)
    voters = boxes[:, :NUM_VOTERS].masked_fill(~is_box[..., None], 0)  # boxes with NaN among them
    votes = _overlaps(own, voters, iou_threshold)
    votes &= labels.gather(1, rows)[..., None] == labels[:, None, :NUM_VOTERS]
    votes = votes * weights[:, None]  # [B, N, V]
    total = votes.sum(dim=2, keepdim=True)
    moved = torch.where(total > 0, votes @ voters / total, own)
    moved = boxes.scatter(1, rows[..., None].expand(-1, -1, 4), moved)
    return torch.where(chosen[..., None], moved, boxes)


def _overlaps(boxes: Tensor, others: Tensor, iou_threshold: float) -> Tensor:
    """Bool [B, N, V]: pairs of boxes [B, N, 4] and [B, V, 4] with an IoU above the threshold."""
    x1, y1, x2, y2 = boxes.split(1, dim=2)  # [B, N, 1]
    other_x1, other_y1, other_x2, other_y2 = others.transpose(1, 2).contiguous().split(1, dim=1)
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).clamp_(min=0)
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (x2 - x1) * (y2 - y1)
    other_areas = (other_x2 - other_x1) * (other_y2 - other_y1)
    return intersection > iou_threshold * (areas + other_areas - intersection)
