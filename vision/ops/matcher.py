"""Matching priors to ground-truth boxes, for a whole batch at once."""

import torch
from torch import Tensor

from vision.ops.box_coder import cxcywh_to_xyxy
from vision.ops.overlaps import areas, pairwise_intersection

BACKGROUND = 0
IGNORED = -1
# qfgaohao's pytorch-ssd and its forks add this to every union (in units of the image's area). It
# decides ties, and overlaps close to the threshold, so it is here too: the targets are the same.
UNION_EPSILON = 1e-5
# Overlaps are computed for a few images at a time, so that they fit in the processor's cache: with
# 100 boxes in an image and batch 64, about four times as fast as for the whole batch.
MAX_OVERLAPS_AT_ONCE = 1_000_000


def pad_targets(targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the boxes of a batch, padded to the largest number of boxes in an image.

    Args:
        targets: one dict for each image: boxes [N, 4], labels [N] and, optionally, iscrowd [N].

    Returns:
        boxes [B, M, 4], labels [B, M] (0 where padded) and iscrowd [B, M]; M may be 0.
    """
    counts = torch.tensor([len(target["labels"]) for target in targets])
    device = targets[0]["boxes"].device
    filled = (torch.arange(int(counts.max())) < counts[:, None]).to(device)  # [B, M]
    boxes = torch.zeros(*filled.shape, 4, device=device)
    labels = torch.zeros(filled.shape, dtype=torch.int64, device=device)
    iscrowd = torch.zeros_like(filled)
    boxes[filled] = torch.cat([target["boxes"] for target in targets]).float()
    labels[filled] = torch.cat([target["labels"] for target in targets])
    if "iscrowd" in targets[0]:
        iscrowd[filled] = torch.cat([target["iscrowd"] for target in targets]).bool()
    return boxes, labels, iscrowd


def match_priors(
    boxes: Tensor,
    labels: Tensor,
    iscrowd: Tensor,
    priors_cxcywh: Tensor,
    *,
    iou_threshold: float,
) -> tuple[Tensor, Tensor]:
    """Assign a label and a box to every prior (Liu et al. 2016, section 2.2, "Matching strategy").

    Each box is matched to the prior with the highest IoU; of two boxes with the same best prior the
    later one gets it. Every other prior is matched to the box with the highest IoU, if that is
    `iou_threshold` or more. A background prior with half or more of its area in a crowd box is
    ignored, since there may be an object.

    Args:
        boxes: xyxy in 0..1, [B, M, 4].
        labels: [B, M], 0 where padded.
        iscrowd: bool [B, M].
        priors_cxcywh: [P, 4] in 0..1.

    Returns:
        prior_labels [B, P] (BACKGROUND, IGNORED or 1..C) and matched_boxes [B, P, 4], which is
        valid where the label is positive.
    """
    batch_size, max_boxes = labels.shape
    num_priors = len(priors_cxcywh)
    if max_boxes == 0:
        return labels.new_zeros(batch_size, num_priors), boxes.new_zeros(batch_size, num_priors, 4)
    priors = cxcywh_to_xyxy(priors_cxcywh)
    is_object = (labels > 0) & ~iscrowd
    best_iou, best_box, best_prior = _best_overlaps(boxes, priors, is_object)

    # amax keeps the last box where several have the same best prior; padding and crowds have -1.
    box_index = torch.arange(max_boxes, device=labels.device).expand_as(labels)
    votes = torch.where(is_object, box_index, -1)
    forced = torch.full_like(best_box, -1).scatter_reduce_(1, best_prior, votes, "amax")
    best_box = torch.where(forced >= 0, forced, best_box)

    positive = (best_iou >= iou_threshold) & (best_iou > 0) | (forced >= 0)
    prior_labels = torch.where(positive, labels.gather(1, best_box), BACKGROUND)
    if iscrowd.any():
        in_crowd = _inside_any(boxes, iscrowd, priors)
        prior_labels = prior_labels.masked_fill(in_crowd & ~positive, IGNORED)
    matched_boxes = boxes.gather(1, best_box[..., None].expand(-1, -1, 4))
    return prior_labels, matched_boxes


def _best_overlaps(
    boxes: Tensor, priors: Tensor, is_object: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each prior's best IoU and box [B, P], and each box's best prior [B, M]."""
    prior_areas = areas(priors)
    images_at_once = max(1, MAX_OVERLAPS_AT_ONCE // (boxes.shape[1] * len(priors)))
    best_iou, best_box, best_prior = [], [], []
    # Padding and crowds become boxes without area, which overlap nothing.
    objects = torch.where(is_object[..., None], boxes, 0.0)
    for chunk in objects.split(images_at_once):
        intersection = pairwise_intersection(chunk, priors)
        union = (areas(chunk)[..., None] + prior_areas).sub_(intersection).add_(UNION_EPSILON)
        iou = intersection.div_(union)
        best = iou.max(dim=1)
        best_iou.append(best.values)
        best_box.append(best.indices)
        best_prior.append(iou.max(dim=2).indices)  # three times as fast as argmax
    return torch.cat(best_iou), torch.cat(best_box), torch.cat(best_prior)


def _inside_any(boxes: Tensor, chosen: Tensor, priors: Tensor) -> Tensor:
    """Tell which priors have half or more of their area in one `chosen` box: bool [B, P]."""
    image, box = chosen.nonzero(as_tuple=True)
    intersection = pairwise_intersection(boxes[image, box][:, None], priors)[:, 0]  # [K, P]
    inside = intersection >= 0.5 * areas(priors).clamp(min=1e-12)
    counts = torch.zeros(len(boxes), len(priors), device=boxes.device)
    return counts.index_add_(0, image, inside.float()) > 0
