"""From the network's output to detections: score floor, top-k, decoding, NMS, box voting."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vision.ops.box_coder import decode_boxes
from vision.ops.box_voting import NUM_VOTERS, vote_boxes
from vision.ops.nms import PADDING, batched_nms


@dataclass(frozen=True)
class PostProcessing:
    """How detections are selected.

    Attributes:
        score_threshold: boxes with a higher score are candidates.
        iou_threshold: of two boxes of a class with a higher IoU the better one stays.
        candidates_per_class: boxes per image and class that enter the NMS.
        detections_per_image: boxes per image that are returned; None returns all.
        voting_iou: a box that stays moves to the mean, weighted by score, of the image's best boxes
            of its class with a higher IoU (`vote_boxes`); 0: it stays where it is.
    """

    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    candidates_per_class: int = 400
    detections_per_image: int | None = 100
    voting_iou: float = 0.0

    def changed(
        self,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        voting_iou: float | None = None,
    ) -> "PostProcessing":
        """Return the settings with other thresholds; None leaves one as it is."""
        given = {
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "voting_iou": voting_iou,
        }
        return replace(self, **{name: x for name, x in given.items() if x is not None})


@torch.no_grad()
def postprocess(
    cls_logits: Tensor,
    bbox_regression: Tensor,
    priors_cxcywh: Tensor,
    orig_sizes: Tensor,
    **options: float | None,
) -> list[dict[str, Tensor]]:
    """Turn logits [B, P, C+1] and offsets into detections; see `select_detections`."""
    scores = cls_logits.float().softmax(dim=-1)
    return select_detections(scores, bbox_regression, priors_cxcywh, orig_sizes, **options)


@torch.no_grad()
def select_detections(
    scores: Tensor,
    bbox_regression: Tensor,
    priors_cxcywh: Tensor,
    orig_sizes: Tensor,
    *,
    score_threshold: float = PostProcessing.score_threshold,
    iou_threshold: float = PostProcessing.iou_threshold,
    candidates_per_class: int = PostProcessing.candidates_per_class,
    detections_per_image: int | None = PostProcessing.detections_per_image,
    voting_iou: float = PostProcessing.voting_iou,
) -> list[dict[str, Tensor]]:
    """Turn scores and offsets into detections in original pixels.

    In each image and class the `candidates_per_class` best boxes above the score threshold go
    through NMS; of what stays, the image's `detections_per_image` best are returned. What is
    computed is less: an image's candidates are taken best first, over all classes, and only until
    that many have passed the NMS. Later candidates cannot change earlier ones, so the result is
    the same, and a score map that is flat (an untrained network's) costs no more than a sharp one.

    Args:
        scores: the softmax of the logits, float32 [B, P, C+1], the background first.
        bbox_regression: [B, P, 4].
        priors_cxcywh: [P, 4] in 0..1.
        orig_sizes: int [B, 2], (height, width) in pixels of the images as they are on disk.
        score_threshold: as the other settings, see PostProcessing.

    Returns:
        For each image a dict of `boxes` [N, 4] xyxy, clipped to the image, `scores` [N] and
        `labels` int64 [N] in 1..C, best score first.
    """
    scores = scores[..., 1:]
    best_scores = scores.amax(dim=-1)
    # Of priors without a score above the threshold none is looked at; NaN counts as above.
    num_priors = max([1, *(~(best_scores <= score_threshold)).sum(dim=1).tolist()])
    num_scores = num_priors * scores.shape[2]
    limit = detections_per_image or num_scores
    num_candidates = min(max(5 * limit, NUM_VOTERS), num_scores)
    results: list[dict[str, Tensor]] = [{} for _ in scores]
    pending = torch.arange(len(scores), device=scores.device)
    while len(pending):
        # The best K (prior, class) pairs lie on the K priors with the best single score.
        rows = best_scores[pending].topk(min(num_candidates, num_priors), sorted=False).indices
        top_scores, priors, labels = _best_candidates(scores, pending, rows, num_candidates)
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
        kept = keep & (keep.cumsum(dim=1) <= limit) & is_done[:, None]
        if voting_iou:
            boxes = vote_boxes(
                boxes, top_scores, labels=labels, chosen=kept, iou_threshold=voting_iou
            )
        boxes *= orig_sizes.to(boxes)[pending][:, None, [1, 0, 1, 0]]
        counts = kept.sum(dim=1).tolist()
        columns = (x[kept].split(counts) for x in (boxes, top_scores, labels + 1))
        for image, done, *found in zip(pending.tolist(), is_done.tolist(), *columns, strict=True):
            if done:
                results[image] = dict(zip(("boxes", "scores", "labels"), found, strict=True))
        pending = pending[~is_done]
        num_candidates = min(16 * num_candidates, num_scores)
    return results


def _best_candidates(
    scores: Tensor, images: Tensor, rows: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the best (prior, class) pairs of some images.

    Args:
        scores: [B, P, C].
        images: int64 [b], the images to search.
        rows: int64 [b, R], the priors to search, in any order.
        num_candidates: K.

    Returns:
        Scores [b, K] in descending order, priors int64 [b, K] and classes from 0, int64 [b, K].
    """
    num_classes = scores.shape[2]
    top_scores, places = scores[images[:, None], rows].flatten(1).topk(num_candidates)
    return top_scores, rows.gather(1, places // num_classes), places % num_classes


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
