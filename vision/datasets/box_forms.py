"""What the four numbers of a COCO `bbox` may be, and how forms other than COCO's are recognised."""

from dataclasses import dataclass

import numpy as np

# COCO's own first; cx and cy are the centre. Fractions are of the image's width and height.
BOX_FORMS = ("xywh", "xyxy", "cxcywh", "xywh-fractions", "xyxy-fractions", "cxcywh-fractions")
# Boxes are of another form if at least the first share of them lie outside their images as COCO's,
# and at least the second inside in that form. Sound files have a few boxes outside, by a pixel.
_LEAVING, _INSIDE = 0.1, 0.99
_FEWEST = 4  # boxes that a judgement is made on
_FEWEST_CENTRES = 20  # the same for centres: a few boxes that reach outside may look like these
_TOLERANCE = 1.0  # pixels; tools round


@dataclass(frozen=True)
class BoxSignature:
    """How the boxes of a whole file lie in their images.

    Attributes:
        num_boxes: with four finite numbers.
        num_outside: that reach outside their image by more than a pixel.
        looks_like: the form of BOX_FORMS that they seem to have, if it is another than `form`.
        reason: why.
    """

    num_boxes: int
    num_outside: int
    looks_like: str | None
    reason: str


def to_xywh(boxes: np.ndarray, sizes: np.ndarray, form: str) -> np.ndarray:
    """Turn boxes [A, 4] of a form of BOX_FORMS into x, y, width and height in pixels.

    Args:
        boxes: float64 [A, 4].
        sizes: (height, width) of each box's image [A, 2].
        form: one of BOX_FORMS.
    """
    if form == "xywh":
        return boxes
    boxes = boxes.copy()
    if form.endswith("-fractions"):
        boxes *= sizes[:, [1, 0, 1, 0]]
    if form.startswith("xyxy"):
        boxes[:, 2:] -= boxes[:, :2]
    elif form.startswith("cxcywh"):
        boxes[:, :2] -= boxes[:, 2:] / 2
    return boxes


def look_at_boxes(boxes: np.ndarray, sizes: np.ndarray) -> BoxSignature:
    """Tell by all boxes of a file whether they are COCO's x, y, width and height in pixels.

    Args:
        boxes: as in the file, float64 [A, 4].
        sizes: (height, width) of each box's image [A, 2].
    """
    # Column by column: over a million boxes this takes 40 ms, by rows 300.
    finite = np.isfinite(sum(boxes.T))
    if not finite.all():
        boxes, sizes = boxes[finite], sizes[finite]
    limits = sizes[:, ::-1]
    count = len(boxes)
    if not count:
        return BoxSignature(0, 0, None, "")
    is_outside = ~_lies_inside(boxes[:, :2], boxes[:, :2] + boxes[:, 2:], limits)
    num_outside = int(is_outside.sum())
    if (
        boxes.min() >= 0
        and boxes.max() <= 1
        and (boxes % 1 != 0).any(axis=1).mean() > 0.5
        and limits.min() > 4
    ):
        form, _ = _other_form(boxes * np.tile(limits, 2), limits)
        reason = f"all {count} boxes are numbers from 0 to 1, so fractions of the image"
        return BoxSignature(count, num_outside, f"{form or 'xywh'}-fractions", reason)
    form, still_outside = None, 0
    if count >= _FEWEST and num_outside >= _LEAVING * count:
        form, still_outside = _other_form(boxes, limits)
    if form is None or (form == "cxcywh" and count < _FEWEST_CENTRES):
        return BoxSignature(count, num_outside, None, "")
    reason = (
        f"as x, y, width and height {num_outside} of {count} boxes reach outside their images, "
        f"as {_MEANINGS[form]} {still_outside} do"
    )
    return BoxSignature(count, num_outside, form, reason)


_MEANINGS = {"xyxy": "corners", "cxcywh": "centre, width and height"}


def _other_form(boxes: np.ndarray, limits: np.ndarray) -> tuple[str | None, int]:
    """The form in which boxes in pixels lie in their images, where they do not as COCO's.

    Returns:
        The form, or None where they are COCO's or of no known form; how many lie outside in it.
    """
    is_inside = _lies_inside(boxes[:, :2], boxes[:, :2] + boxes[:, 2:], limits)
    if (~is_inside).sum() < _LEAVING * len(boxes):
        return None, 0
    half = boxes[:, 2:] / 2
    is_ordered = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    fits = {
        "xyxy": is_ordered & _lies_inside(boxes[:, :2], boxes[:, 2:], limits),
        "cxcywh": _lies_inside(boxes[:, :2] - half, boxes[:, :2] + half, limits),
    }
    form = next((form for form, inside in fits.items() if inside.mean() >= _INSIDE), None)
    return form, 0 if form is None else int((~fits[form]).sum())


def _lies_inside(low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> np.ndarray:
    inside = np.ones(len(low), bool)
    for axis in (0, 1):
        inside &= low[:, axis] >= -_TOLERANCE
        inside &= high[:, axis] <= limits[:, axis] + _TOLERANCE
    return inside
