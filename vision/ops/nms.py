"""Exact non-maximum suppression (NMS) for a batch, separately for each class of each image."""

from torch import Tensor

PADDING = float("-inf")


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    labels: Tensor,
    iou_threshold: float,
    enough: int | None = None,
) -> Tensor:
    """Greedy NMS over images and classes, equal to torchvision's `nms` on each of them.

    Args:
        boxes: xyxy in any unit, [B, K, 4].
        scores: [B, K]; entries with score PADDING are not boxes.
        labels: int64 [B, K]; boxes with different labels never suppress each other.
        iou_threshold: a box is removed if its IoU with a kept box of higher score is above this.
        enough: number of boxes that the caller needs from an image; NMS then tries the first
            2 * enough boxes alone. Scores must be in descending order.

    Returns:
        bool [B, K]: the boxes that are kept; with `enough`, perhaps only the best of them.
    """
    from torchvision.ops import nms  # 170 MB and a second: only where it is needed

    keep = scores > PADDING
    if not keep.any():
        return keep
    # The boxes of each class are shifted to a region of their own, so that one call of nms serves
    # all classes of an image. In float64 the shift does not change float32 coordinates; in float32
    # it would (by 1e-5 at class 80), so torchvision's batched_nms loops over the classes when there
    # are many boxes.
    lowest, highest = boxes[keep].aminmax()
    shift = labels.double() * (highest.double() - lowest.double() + 1)
    apart = boxes.double() + shift[..., None]
    # A loop over images: for 16 x 512 boxes of 80 classes on two cores, 16 calls take 4 ms, one
    # [B, K, K] comparison 33 ms, torchvision's batched_nms over all images and classes 55 ms. With
    # `enough`, 100 of 200 boxes, it is 1 ms: the time grows with the square of the number of boxes.
    for image_boxes, image_scores, image_keep in zip(apart, scores.double(), keep, strict=True):
        places = image_keep.nonzero()[:, 0]
        image_keep.zero_()
        first = places if enough is None else places[: 2 * enough]
        kept = nms(image_boxes[first], image_scores[first], iou_threshold)
        if len(first) < len(places) and len(kept) < enough:
            kept = nms(image_boxes[places], image_scores[places], iou_threshold)
        image_keep[places[kept]] = True
    return keep
