"""Box voting: a detection moves to the mean of the boxes that suppression removed around it."""

import torch
from torch import Tensor

from vision.ops.nms import PADDING

NUM_VOTERS = 300  # an image's best; as many as exported graphs look at, so that results are equal


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
    from torchvision.ops import box_iou  # slow to import: only where it is needed

    moved = boxes.clone()
    # A loop over images, as in the NMS: what is compared is only the image's own.
    for image in range(len(boxes)):
        own = chosen[image]
        voters = (scores[image, :NUM_VOTERS] > PADDING).nonzero()[:, 0]
        voting = boxes[image, voters]
        votes = box_iou(boxes[image, own], voting) > iou_threshold  # [N, V]
        votes &= labels[image, own, None] == labels[image, voters]
        weights = votes * scores[image, voters]
        total = weights.sum(dim=1, keepdim=True)
        moved[image, own] = torch.where(total > 0, weights @ voting / total, boxes[image, own])
    return moved
