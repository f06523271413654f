"""Small pictures of what went wrong, each a part of an image with its boxes."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from vision.datasets.image_files import read_image
from vision.evaluation.coco_arrays import pairwise_iou
from vision.evaluation.errors import BACKGROUND, CLASSIFICATION, NONE
from vision.evaluation.thresholds import ALL_AREAS, AT_IOU
from vision.report.analysis import Analysis
from vision.report.inputs import Sources, locate_image
from vision.report.words import percent

NUM_PICTURES = 8
NUM_SUSPECTS = 20
MIN_BELIEF = 0.5  # precision from which on a detection makes its label doubtful
SHARED_FROM = 0.8  # IoU of two boxes of different classes, or of one class
SIDE = 176  # pixels of a picture
_CONTEXT = 2.2  # sides of the part shown, over the box's
_TRUTH, _FOUND = (40, 190, 90), (255, 140, 0)  # RGB
_QUALITY = 72  # of the JPEG


@dataclass(frozen=True)
class Example:
    """A case to show.

    Attributes:
        image: its position in the data.
        score: how bad or likely it is, for the order.
        caption: what is seen.
        truth: boxes of the labels [N, 4] xywh, drawn green.
        found: boxes of detections [M, 4] xywh, drawn orange.
    """

    image: int
    score: float
    caption: str
    truth: np.ndarray
    found: np.ndarray

    @property
    def key(self) -> tuple[int, bytes, bytes]:
        """What tells a detection's case from another's, or a box's where nothing was found."""
        return self.image, self.found.tobytes(), b"" if len(self.found) else self.truth.tobytes()


@dataclass(frozen=True)
class Picture:
    """An example, ready for the page."""

    source: str  # a data URI
    width: int
    height: int
    caption: str
    file: str


def likely_label_errors(analysis: Analysis) -> list[Example]:
    """Find detections and boxes that speak against the labels, the likeliest first.

    A detection where no box is, or on a box of another class, counts if its score is above its
    class's best threshold. How likely it is right is the precision of its class at that score or
    at a lower one, whichever is higher: a single wrong label at the top of the list lowers the
    precision there most, and the likelihood must not fall as the score rises. Two labels at one
    place are as likely one object as their IoU says.
    """
    errors, names = analysis.errors, analysis.names
    gt, dt = analysis.matches.ground_truth, analysis.matches.detections
    rows = np.flatnonzero(np.isin(errors.kinds, (BACKGROUND, CLASSIFICATION)))
    rows = rows[dt.scores[rows] > analysis.class_thresholds[dt.labels[rows] - 1]]
    beliefs, scores = _beliefs(analysis, rows)
    best = np.lexsort((-dt.scores[rows], -beliefs))[:NUM_SUSPECTS]
    best = best[beliefs[best] >= MIN_BELIEF]
    examples = []
    for row, belief, score in zip(rows[best], beliefs[best], scores[best], strict=True):
        image, target = int(dt.image_index[row]), errors.targets[row]
        name = names[dt.labels[row] - 1]
        reason = f"{name} {dt.scores[row]:.2f}, "
        reason += "no label here" if target == NONE else f"labelled {names[gt.labels[target] - 1]}"
        reason += f"; {percent(belief)} of {name} from {score:.2f} on are right"
        boxes = gt.boxes_xywh[(gt.image_index == image) & analysis.is_box]
        examples.append(Example(image, belief, reason, boxes, dt.boxes_xywh[[row]]))
    examples += _shared_boxes(analysis)
    return sorted(examples, key=lambda example: -example.score)[:NUM_SUSPECTS]


def _beliefs(analysis: Analysis, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best precision of each detection's class at its score or below, and at which.

    Both [N].
    """
    dt, beliefs, scores = analysis.matches.detections, np.zeros(len(rows)), np.zeros(len(rows))
    for k, curve in enumerate(analysis.class_curves):
        chosen = np.flatnonzero(dt.labels[rows] == k + 1)
        places = np.searchsorted(-curve.scores, -dt.scores[rows[chosen]])
        best = np.maximum.accumulate(curve.precision[::-1])[::-1]
        beliefs[chosen] = best[places]
        is_best = np.flatnonzero(curve.precision == best)
        scores[chosen] = curve.scores[is_best[np.searchsorted(is_best, places)]]
    return beliefs, scores


def _shared_boxes(analysis: Analysis) -> list[Example]:
    """Find pairs of labels at one place."""
    gt, names = analysis.matches.ground_truth, analysis.names
    counted = np.flatnonzero(analysis.is_box)
    counted = counted[np.argsort(gt.image_index[counted], kind="stable")]
    examples = []
    for rows in np.split(counted, np.flatnonzero(np.diff(gt.image_index[counted])) + 1):
        ious = _iou_of_each(gt.boxes_xywh[rows])
        for a, b in zip(*np.nonzero(np.triu(ious >= SHARED_FROM, 1)), strict=True):
            pair = rows[[a, b]]
            first, second = (names[label - 1] for label in gt.labels[pair])
            what = f"labelled twice as {first}" if first == second else f"{first} and {second}"
            caption = f"{what}, IoU {ious[a, b]:.2f}"
            image = int(gt.image_index[pair[0]])
            boxes = gt.boxes_xywh[pair]
            examples.append(Example(image, float(ious[a, b]), caption, boxes, np.zeros((0, 4))))
    return examples


def _iou_of_each(boxes_xywh: np.ndarray) -> np.ndarray:
    """IoU of each box with each, [N, N]."""
    lower, upper = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    sides = np.minimum(upper[:, None], upper) - np.maximum(lower[:, None], lower)
    shared = sides.clip(min=0).prod(axis=-1)
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    return shared / np.maximum(areas[:, None] + areas - shared, 1e-9)


def false_positives(analysis: Analysis) -> list[Example]:
    """Return the wrong detections of the highest scores, those on another class's box left out."""
    errors, dt = analysis.errors, analysis.matches.detections
    rows = np.flatnonzero((errors.kinds != NONE) & (errors.kinds != CLASSIFICATION))
    return _detections(analysis, rows[np.argsort(-dt.scores[rows], kind="stable")])


def confusions(analysis: Analysis) -> list[Example]:
    """Return the detections of the highest scores on a box of another class."""
    errors, dt = analysis.errors, analysis.matches.detections
    rows = np.flatnonzero(errors.kinds == CLASSIFICATION)
    return _detections(analysis, rows[np.argsort(-dt.scores[rows], kind="stable")])


def loosest_hits(analysis: Analysis) -> list[Example]:
    """Return the hits above the threshold of the lowest IoU."""
    matches, dt, gt = analysis.matches, analysis.matches.detections, analysis.matches.ground_truth
    rows = np.flatnonzero(matches.is_tp[ALL_AREAS, AT_IOU] & (dt.scores > analysis.threshold))
    partners = matches.partners[rows]
    crowd = np.zeros(len(rows), bool)
    ious = pairwise_iou(dt.boxes_xywh[rows], gt.boxes_xywh[partners], crowd)
    examples = []
    for i in np.argsort(ious, kind="stable")[:NUM_PICTURES].tolist():
        name = analysis.names[dt.labels[rows[i]] - 1]
        caption = f"{name} {dt.scores[rows[i]]:.2f}, IoU {ious[i]:.2f}"
        boxes = gt.boxes_xywh[[partners[i]]], dt.boxes_xywh[[rows[i]]]
        examples.append(Example(int(dt.image_index[rows[i]]), -ious[i], caption, *boxes))
    return examples


def misses(analysis: Analysis) -> list[Example]:
    """Return the largest boxes that no detection comes near to."""
    gt = analysis.matches.ground_truth
    rows = np.flatnonzero(analysis.errors.is_missed)
    rows = rows[np.argsort(-analysis.box_sizes[rows], kind="stable")][:NUM_PICTURES]
    return [
        Example(
            int(gt.image_index[row]),
            float(analysis.box_sizes[row]),
            f"{analysis.names[gt.labels[row] - 1]}, {analysis.box_sizes[row]:.0f} px at the input"
            + (f", best prior IoU {analysis.prior_ious[row]:.2f}" if analysis.has_priors else ""),
            gt.boxes_xywh[[row]],
            np.zeros((0, 4)),
        )
        for row in rows.tolist()
    ]


def _detections(analysis: Analysis, rows: np.ndarray) -> list[Example]:
    errors, gt, dt = analysis.errors, analysis.matches.ground_truth, analysis.matches.detections
    words = ("", "; IoU below 0.5", "; near a box of another class", "; a second one", "; nothing")
    examples = []
    for row in rows[: NUM_PICTURES + NUM_SUSPECTS].tolist():
        target, name = errors.targets[row], analysis.names[dt.labels[row] - 1]
        caption = f"{name} {dt.scores[row]:.2f}{words[errors.kinds[row]]}"
        if errors.kinds[row] == CLASSIFICATION:
            caption += f", is {analysis.names[gt.labels[target] - 1]}"
        in_image = np.flatnonzero((gt.image_index == dt.image_index[row]) & analysis.is_box)
        truth = gt.boxes_xywh[in_image if target == NONE else [target]]
        image, score = int(dt.image_index[row]), float(dt.scores[row])
        examples.append(Example(image, score, caption, truth, dt.boxes_xywh[[row]]))
    return examples


GALLERIES: dict[str, tuple[str, Callable[[Analysis], list[Example]]]] = {
    "False positives": ("the wrong detections of the highest scores", false_positives),
    "Misses": ("the largest boxes that no detection comes near to", misses),
    "Confusions": ("detections of the highest scores on a box of another class", confusions),
    "Loosest hits": ("the hits of the lowest IoU above the threshold", loosest_hits),
}


def draw_pictures(examples: Iterable[Example], sources: Sources) -> list[Picture]:
    """Cut out and draw the examples; an image that cannot be read is left out."""
    pictures = []
    for example in examples:
        path, name, size = locate_image(sources, example.image)
        try:
            pixels = read_image(path, size=size)
        except (OSError, ValueError):
            continue
        part = _draw(pixels, example)
        good, data = cv2.imencode(".jpg", part[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        assert good
        source = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
        pictures.append(Picture(source, part.shape[1], part.shape[0], example.caption, name))
    return pictures


def _draw(pixels: np.ndarray, example: Example) -> np.ndarray:
    """Cut out the part around the case, shrink or grow it to SIDE, and draw the boxes."""
    focus = example.found if len(example.found) else example.truth
    corner, extent = focus[:, :2].min(axis=0), focus[:, :2] + focus[:, 2:]
    extent = extent.max(axis=0) - corner
    height, width = pixels.shape[:2]
    side = min(max(_CONTEXT * extent.max(), 48), max(height, width))
    left, right = _window(corner[0] + extent[0] / 2, side, width)
    top, bottom = _window(corner[1] + extent[1] / 2, side, height)
    part = pixels[top:bottom, left:right]
    factor = SIDE / max(part.shape[:2])
    size = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    canvas = np.ascontiguousarray(cv2.resize(part, size, interpolation=way))
    for boxes, color in ((example.truth, _TRUTH), (example.found, _FOUND)):
        for x, y, w, h in boxes:
            ends = np.array([[x - left, y - top], [x + w - left, y + h - top]]) * factor
            (x1, y1), (x2, y2) = np.clip(ends, -9999, 9999).round().astype(int).tolist()
            cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), 4)
            cv2.rectangle(canvas, (x1, y1), (x2, y2), color, 2)
    return canvas


def _window(center: float, side: float, limit: int) -> tuple[int, int]:
    """Return a range of `side` pixels around `center` that lies in 0..limit."""
    length = min(round(side), limit)
    start = int(np.clip(round(center - side / 2), 0, limit - length))
    return start, start + length
