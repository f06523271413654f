"""Which boxes some prior fits: what cannot be matched is hard to learn and to find."""

import numpy as np

MATCHED_FROM = 0.5  # IoU
_PAIRS_AT_ONCE = 250_000


def best_prior_iou(boxes_xyxy: np.ndarray, priors_cxcywh: np.ndarray) -> np.ndarray:
    """Return the IoU of each box with the prior that fits it best.

    Args:
        boxes_xyxy: [N, 4], in 0..1 of the image's sides.
        priors_cxcywh: [P, 4], as the network has them.

    Returns:
        float32 [N].
    """
    boxes = boxes_xyxy.astype(np.float32)
    center, half = priors_cxcywh[:, :2].astype(np.float32), priors_cxcywh[:, 2:] / 2
    lower, upper = (center - half).T.astype(np.float32), (center + half).T.astype(np.float32)
    prior_areas = (upper - lower).prod(axis=0)
    best = np.zeros(len(boxes), np.float32)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(priors_cxcywh)))
    for start in range(0, len(boxes), step):
        part = boxes[start : start + step, :, None]  # [n, 4, 1]
        width = np.minimum(part[:, 2], upper[0]) - np.maximum(part[:, 0], lower[0])  # [n, P]
        height = np.minimum(part[:, 3], upper[1]) - np.maximum(part[:, 1], lower[1])
        shared = width.clip(min=0) * height.clip(min=0)
        areas = (part[:, 2] - part[:, 0]) * (part[:, 3] - part[:, 1])
        ious = shared / np.maximum(areas + prior_areas - shared, 1e-12)
        best[start : start + step] = ious.max(axis=1, initial=0)
    return best
