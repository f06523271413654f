"""COCO's precision and recall arrays, computed with NumPy on flat arrays.

pycocotools loops over images, classes, area ranges and IoU thresholds in Python: 42.6 s for a
result of COCO val's size, here 0.98 s (benchmarks/coco_evaluation.py). All images and classes are
matched together, one detection of each at a time. The rules, and the order of ties, are those of
pycocotools; the tests compare whole arrays with it.
"""

from dataclasses import dataclass

import numpy as np

from vision.evaluation.coco_boxes import Detections, GroundTruth

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # of one class in one image
AREA_RANGES = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
_PAIRS_AT_ONCE = 1_000_000  # 60 MB; bounds the memory for crowded images


@dataclass
class Matches:
    """Which detections are right, for every IoU threshold and area range.

    Attributes:
        ground_truth: sorted by class and image.
        detections: sorted by class, image and falling score; the best 100 of a class in an image.
        rows: int64 [D], their places in the detections that were given.
        ranks: int64 [D], from 0, among those of their class and image.
        is_tp: bool [A, T, D].
        is_fp: bool [A, T, D]; a detection that does not count is neither.
        gt_ignored: bool [G, A].
        partners: int64 [D], the box that each has at the lowest IoU threshold in the whole area
            range, as a place in `ground_truth`; -1 without one.
    """

    ground_truth: GroundTruth
    detections: Detections
    rows: np.ndarray
    ranks: np.ndarray
    is_tp: np.ndarray
    is_fp: np.ndarray
    gt_ignored: np.ndarray
    partners: np.ndarray


def compute_arrays(
    ground_truth: GroundTruth, detections: Detections
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match detections with ground truth and accumulate the results, as COCOeval does for boxes.

    Returns:
        Precision [T, R, C, A, M], recall [T, C, A, M] and scores [T, R, C, A, M] over T IoU
        thresholds, R recall thresholds, C classes, A area ranges and M detection limits; -1 for
        classes without a box in the area range.
    """
    return accumulate(match_boxes(ground_truth, detections))


def match_boxes(ground_truth: GroundTruth, detections: Detections) -> Matches:
    """Match detections with the boxes of their class and image, as COCOeval does."""
    gt, gt_groups = _sort_ground_truth(ground_truth)
    dt, dt_groups, ranks, rows = _sort_detections(detections, ground_truth.num_images)
    gt_ignored = gt.iscrowd[:, None] | outside_areas(gt.areas)  # [G, A]
    matched, ignored, partners = _match(
        *find_overlaps(gt, gt_groups, dt, dt_groups),
        dt_groups=dt_groups,
        gt_ignored=gt_ignored,
        iscrowd=gt.iscrowd,
    )
    outside = outside_areas(dt.boxes_xywh[:, 2] * dt.boxes_xywh[:, 3])
    return Matches(
        ground_truth=gt,
        detections=dt,
        rows=rows,
        ranks=ranks,
        is_tp=(matched & ~ignored).transpose(2, 1, 0),
        is_fp=(~matched & ~outside[:, None]).transpose(2, 1, 0),
        gt_ignored=gt_ignored,
        partners=partners,
    )


def _sort_ground_truth(gt: GroundTruth) -> tuple[GroundTruth, np.ndarray]:
    """Sort by class and image; also return each box's group, label * num_images + image."""
    groups = gt.labels * gt.num_images + gt.image_index
    order = np.argsort(groups, kind="stable")
    gt = GroundTruth(
        num_images=gt.num_images,
        num_classes=gt.num_classes,
        image_index=gt.image_index[order],
        labels=gt.labels[order],
        boxes_xywh=gt.boxes_xywh[order],
        areas=gt.areas[order],
        iscrowd=gt.iscrowd[order].astype(bool),
    )
    return gt, groups[order]


def _sort_detections(
    dt: Detections, num_images: int
) -> tuple[Detections, np.ndarray, np.ndarray, np.ndarray]:
    """Sort by class, image and descending score; keep the 100 best of a class in an image.

    Returns:
        The kept detections, their groups, their ranks in the group, from 0, and their indices in
        `dt`.
    """
    groups = dt.labels * num_images + dt.image_index
    order = np.lexsort((-dt.scores, groups))
    ranks = _rank_in_group(groups[order])
    order, ranks = order[ranks < MAX_DETECTIONS[-1]], ranks[ranks < MAX_DETECTIONS[-1]]
    return dt.take(order), groups[order], ranks, order


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """Number the elements of each run of equal values from 0."""
    places = np.arange(len(groups))
    is_first = np.concatenate([[True], groups[1:] != groups[:-1]])[: len(groups)]
    return places - np.maximum.accumulate(np.where(is_first, places, 0))


def outside_areas(areas: np.ndarray) -> np.ndarray:
    """Tell which boxes are too small or too large for each area range: bool [N, A]."""
    lowest, highest = np.array(list(AREA_RANGES.values())).T
    return (areas[:, None] < lowest) | (areas[:, None] > highest)


def find_overlaps(
    gt: GroundTruth,
    gt_groups: np.ndarray,
    dt: Detections,
    dt_groups: np.ndarray,
    *,
    lowest: float = IOU_THRESHOLDS[0],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of a detection and a ground truth of its group with IoU >= `lowest`.

    Args:
        gt: sorted by `gt_groups`.
        gt_groups: int64 [G].
        dt: in any order.
        dt_groups: int64 [D].
        lowest: IoU.

    Returns:
        Indices of the detections, indices of the ground truth, and IoUs, each [E]; sorted by
        detection, then descending IoU. Of equal IoUs the last ground truth comes first, as in
        pycocotools.
    """
    starts = np.searchsorted(gt_groups, dt_groups, side="left")
    counts = np.searchsorted(gt_groups, dt_groups, side="right") - starts
    chunk_of = np.cumsum(counts) // _PAIRS_AT_ONCE
    found = []
    for chunk in np.unique(chunk_of[counts > 0]):
        members = np.flatnonzero((chunk_of == chunk) & (counts > 0))
        dt_rows = np.repeat(members, counts[members])
        gt_rows = np.repeat(starts[members], counts[members]) + _rank_in_group(dt_rows)
        ious = pairwise_iou(dt.boxes_xywh[dt_rows], gt.boxes_xywh[gt_rows], gt.iscrowd[gt_rows])
        near = ious >= lowest
        found.append((dt_rows[near], gt_rows[near], ious[near]))
    if not found:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    dt_rows, gt_rows, ious = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((-gt_rows, -ious, dt_rows))
    return dt_rows[order], gt_rows[order], ious[order]


def pairwise_iou(dt_xywh: np.ndarray, gt_xywh: np.ndarray, iscrowd: np.ndarray) -> np.ndarray:
    """Return the IoUs [N] of boxes [N, 4] and [N, 4]; for a crowd, overlap / detection's area."""
    ends = np.minimum(dt_xywh[:, :2] + dt_xywh[:, 2:], gt_xywh[:, :2] + gt_xywh[:, 2:])
    sides = ends - np.maximum(dt_xywh[:, :2], gt_xywh[:, :2])
    overlap = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0)
    dt_area, gt_area = dt_xywh[:, 2] * dt_xywh[:, 3], gt_xywh[:, 2] * gt_xywh[:, 3]
    union = np.where(iscrowd, dt_area, dt_area + gt_area - overlap)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def _match(
    dt_rows: np.ndarray,
    gt_rows: np.ndarray,
    ious: np.ndarray,
    *,
    dt_groups: np.ndarray,
    gt_ignored: np.ndarray,
    iscrowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match each detection, highest score first, to the unmatched ground truth of highest IoU.

    Ground truth that counts is preferred to ignored ground truth, whatever the IoUs. A crowd can be
    matched any number of times.

    Returns:
        Two arrays, bool [D, T, A]: the detection is matched; it is matched to ignored ground truth;
        and the index of its match at the first threshold in the first range, [D], or -1.
    """
    shape = (len(dt_groups), len(IOU_THRESHOLDS), len(AREA_RANGES))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    partners = np.full(len(dt_groups), -1)
    taken = np.zeros((len(gt_ignored), *shape[1:]), bool)
    reaches = ious[:, None] >= IOU_THRESHOLDS  # [E, T]
    # Round r matches the r-th detection of every group, counting those that overlap anything. They
    # are of different groups, so no two of them compete for the same ground truth.
    touching, owner = np.unique(dt_rows, return_inverse=True)
    rounds = _rank_in_group(dt_groups[touching])[owner]
    choices = _rank_in_group(dt_rows)
    for pairs_of_round in _split_runs(np.lexsort((choices, rounds)), rounds):
        steps = _split_runs(pairs_of_round, choices)
        for want_ignored in (False, True):
            for pairs in steps:
                dt, gt = dt_rows[pairs], gt_rows[pairs]
                gets = reaches[pairs][:, :, None] & ~matched[dt] & ~taken[gt]
                gets &= (gt_ignored[gt] == want_ignored)[:, None]
                matched[dt] |= gets
                taken[gt] |= gets & ~iscrowd[gt, None, None]
                ignored[dt] |= gets & want_ignored
                partners[dt[gets[:, 0, 0]]] = gt[gets[:, 0, 0]]
    return matched, ignored, partners


def _split_runs(rows: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
    """Split `rows` wherever `keys[rows]` changes."""
    return np.split(rows, np.flatnonzero(np.diff(keys[rows])) + 1)


def accumulate(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build the arrays of `compute_arrays`."""
    dt, is_tp, is_fp = matches.detections, matches.is_tp, matches.is_fp
    num_classes = matches.ground_truth.num_classes
    shape = (num_classes, len(AREA_RANGES), len(MAX_DETECTIONS))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), *shape), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), *shape), -1.0)
    scores = precision.copy()
    for k in range(num_classes):
        num_gt = (~matches.gt_ignored[matches.ground_truth.labels == k + 1]).sum(axis=0)  # [A]
        start, stop = np.searchsorted(dt.labels, [k + 1, k + 2])
        best_first = start + np.argsort(-dt.scores[start:stop], kind="stable")
        for m, limit in enumerate(MAX_DETECTIONS):
            rows = best_first[matches.ranks[best_first] < limit]
            for a in np.flatnonzero(num_gt):
                precision[:, :, k, a, m], recall[:, k, a, m], scores[:, :, k, a, m] = _curve(
                    is_tp[a][:, rows], is_fp[a][:, rows], dt.scores[rows], int(num_gt[a])
                )
    return precision, recall, scores


def _curve(
    is_tp: np.ndarray, is_fp: np.ndarray, scores: np.ndarray, num_gt: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute precision and score at each recall threshold from sorted detections.

    Recall grows only at true positives, so the curve is computed at these alone: at the n-th true
    positive, precision is n / (n + false positives before it).

    Args:
        is_tp: bool [T, N], highest score first.
        is_fp: bool [T, N]; an ignored detection is neither.
        scores: [N].
        num_gt: number of boxes that count.

    Returns:
        Precision [T, R], final recall [T] and scores [T, R].
    """
    precision = np.zeros((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS)))
    reached_at = np.zeros_like(precision)
    recalls = np.arange(1, num_gt + 1) / num_gt
    needed = np.searchsorted(recalls, RECALL_THRESHOLDS)  # number of true positives - 1
    num_tp = is_tp.sum(axis=1)
    num_fp = np.cumsum(is_fp, axis=1, dtype=np.int32)
    for t, places in enumerate(map(np.flatnonzero, is_tp)):
        tp = np.arange(1.0, len(places) + 1)
        values = tp / (num_fp[t, places] + tp + np.spacing(1))
        envelope = np.maximum.accumulate(values[::-1])[::-1]
        is_reached = needed < len(places)
        precision[t, is_reached] = envelope[needed[is_reached]]
        reached_at[t, is_reached] = scores[places[needed[is_reached]]]
    if len(scores):
        reached_at[:, 0] = scores[0]  # the first detection reaches recall 0, even a false positive
    return precision, num_tp / num_gt, reached_at
