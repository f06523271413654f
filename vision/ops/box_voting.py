"""Box voting: a detection moves to the mean of the boxes that suppression removed around it."""

import torch
from torch import Tensor

from vision.ops.nms import PADDING
from vision.ops.overlaps import areas, pairwise_intersection

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
    intersection = pairwise_intersection(own, voters)
    unions = areas(own)[..., None] + areas(voters)[:, None] - intersection
    votes = intersection > iou_threshold * unions  # bool [B, N, V]
    votes &= labels.gather(1, rows)[..., None] == labels[:, None, :NUM_VOTERS]
    votes = votes * weights[:, None]  # [B, N, V]
    total = votes.sum(dim=2, keepdim=True)
    moved = torch.where(total > 0, votes @ voters / total, own)
    moved = boxes.scatter(1, rows[..., None].expand(-1, -1, 4), moved)
    return torch.where(chosen[..., None], moved, boxes)
