"""From the network's output to detections: score floor, top-k, decoding, NMS."""

import torch
from torch import Tensor

from vision.ops.box_coder import decode_boxes
from vision.ops.nms import PADDING, batched_nms

SCORE_THRESHOLD = 0.01
IOU_THRESHOLD = 0.45
CANDIDATES_PER_CLASS = 200
DETECTIONS_PER_IMAGE = 100


@torch.no_grad()
def class_scores(cls_logits: Tensor) -> Tensor:
    """Return the softmax scores of the classes, float32 [B, P, C], of logits [B, P, C+1]."""
    return cls_logits.float().softmax(dim=-1)[..., 1:]


@torch.no_grad()
def postprocess(
    cls_logits: Tensor,
    bbox_regression: Tensor,
    priors_cxcywh: Tensor,
    orig_sizes: Tensor,
    **options: float | None,
) -> list[dict[str, Tensor]]:
    """Turn logits [B, P, C+1] and offsets into detections; see `select_detections`."""
    scores = class_scores(cls_logits)
    return select_detections(scores, bbox_regression, priors_cxcywh, orig_sizes, **options)


@torch.no_grad()
def select_detections(
    scores: Tensor,
    bbox_regression: Tensor,
    priors_cxcywh: Tensor,
    orig_sizes: Tensor,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    candidates_per_class: int = CANDIDATES_PER_CLASS,
    detections_per_image: int | None = DETECTIONS_PER_IMAGE,
) -> list[dict[str, Tensor]]:
    """Turn scores and offsets into detections in original pixels.

    In each image and class the `candidates_per_class` best boxes above the score threshold go
    through NMS; of what stays, the image's `detections_per_image` best are returned. What is
    computed is less: an image's candidates are taken best first, over all classes, and only until
    that many have passed the NMS. Later candidates cannot change earlier ones, so the result is
    the same, and a score map that is flat (an untrained network's) costs no more than a sharp one.

    Args:
        scores: of the classes without the background, from `class_scores`, [B, P, C].
        bbox_regression: [B, P, 4].
        priors_cxcywh: [P, 4] in 0..1.
        orig_sizes: int [B, 2], (height, width) in pixels of the images as they are on disk.
        score_threshold: boxes with a higher score are candidates.
        iou_threshold: of two boxes of a class with a higher IoU the better one stays.
        candidates_per_class: boxes per image and class that enter the NMS.
        detections_per_image: boxes per image that are returned; None returns all.

    Returns:
        For each image a dict of `boxes` [N, 4] xyxy, clipped to the image, `scores` [N] and
        `labels` int64 [N] in 1..C, best score first.
    """
    num_scores = scores.shape[1] * scores.shape[2]
    limit = detections_per_image or num_scores
    num_candidates = min(5 * limit, num_scores)
    results: list[dict[str, Tensor]] = [{} for _ in scores]
    pending = torch.arange(len(scores), device=scores.device)
    while len(pending):
        top_scores, priors, labels = _best_candidates(scores, pending, num_candidates)
        top_scores.masked_fill_(~(top_scores > score_threshold), PADDING)
        is_last = (top_scores[:, -1] == PADDING) | (num_candidates == num_scores)
        top_scores, order = _limit_classes(top_scores, labels, candidates_per_class)
        priors, labels = priors.gather(1, order), labels.gather(1, order)
        offsets = bbox_regression[pending[:, None], priors].float()
        boxes = decode_boxes(offsets, priors_cxcywh[priors]).clamp(0, 1)
        top_scores.masked_fill_(boxes.isnan().any(dim=-1), PADDING)  # of a diverged network
        keep = batched_nms(
            boxes,
            top_scores,
            labels=labels,
            iou_threshold=iou_threshold,
            enough=detections_per_image,
        )
        is_done = is_last | (keep.sum(dim=1) >= limit)
        boxes *= orig_sizes.to(boxes)[pending][:, None, [1, 0, 1, 0]]
        for row in is_done.nonzero()[:, 0].tolist():
            kept = keep[row].nonzero()[:limit, 0]
            results[int(pending[row])] = {
                "boxes": boxes[row, kept],
                "scores": top_scores[row, kept],
                "labels": labels[row, kept] + 1,
            }
        pending = pending[~is_done]
        num_candidates = min(16 * num_candidates, num_scores)
    return results


def _best_candidates(
    scores: Tensor, images: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the best (prior, class) pairs of some images.

    The best K pairs lie on the K priors with the best single score, so the search over P x C
    scores is one over P and one over K x C. And as many pairs reach the worst of these single
    scores, so only the few that do are ordered.

    Args:
        scores: [B, P, C].
        images: int64 [b], the images to search.
        num_candidates: K.

    Returns:
        Scores [b, K] in descending order, priors int64 [b, K] and classes from 0, int64 [b, K].
    """
    _, num_priors, num_classes = scores.shape
    best, rows = scores.amax(dim=-1)[images].topk(min(num_candidates, num_priors), sorted=False)
    pairs = scores[images[:, None], rows].flatten(1)
    if num_candidates <= num_priors:
        pairs, places = _pack(pairs, ~(pairs < best.amin(dim=1, keepdim=True)))  # NaN stays
        top_scores, order = pairs.topk(num_candidates)
        places = places.gather(1, order)
    else:
        top_scores, places = pairs.topk(num_candidates)
    return top_scores, rows.gather(1, places // num_classes), places % num_classes


def _pack(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Move the chosen values of each row to its start.

    Args:
        values: [b, N].
        chosen: bool [b, N].

    Returns:
        Values [b, M], PADDING at the end, where M is the most that a row has; and their places in
        N, int64 [b, M].
    """
    rows, columns = chosen.nonzero(as_tuple=True)
    counts = chosen.sum(dim=1)
    ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    packed = values.new_full((len(values), int(counts.max())), PADDING)
    places = torch.zeros_like(packed, dtype=torch.int64)
    packed[rows, ranks], places[rows, ranks] = values[rows, columns], columns
    return packed, places


def _limit_classes(
    top_scores: Tensor, labels: Tensor, candidates_per_class: int
) -> tuple[Tensor, Tensor]:
    """Leave out what comes after the best candidates of each class.

    Args:
        top_scores: [b, K], descending but for PADDING.
        labels: int64 [b, K].
        candidates_per_class: candidates that stay for each label of an image.

    Returns:
        Scores [b, L], descending, PADDING last, where L is the most that an image has left; and
        their places in K, int64 [b, L].
    """
    by_class, order = labels.sort(dim=1, stable=True)
    place = torch.arange(labels.shape[1], device=labels.device)
    rank = place - torch.searchsorted(by_class, by_class)  # in the class, from 0
    is_over = torch.empty_like(order).scatter_(1, order, rank) >= candidates_per_class
    top_scores = top_scores.masked_fill(is_over, PADDING)
    num_left = int((top_scores > PADDING).sum(dim=1).max())
    return top_scores.topk(num_left)
