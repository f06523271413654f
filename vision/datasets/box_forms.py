"""What the four numbers of a COCO `bbox` may be, and by what other forms than COCO's are known."""

from dataclasses import dataclass

import numpy as np

# COCO's own first. Fractions are of the image's width and height.
BOX_FORMS = ("xywh", "xyxy", "xywh-fractions", "xyxy-fractions")
# From this share of boxes that leave their images on, while as corners nearly none does, they are
# corners. Sound files have a few boxes that reach outside, of a pixel or two.
_LEAVING, _INSIDE = 0.1, 0.99
_FEWEST = 4  # boxes that a judgement is made on
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
    return boxes


def look_at_boxes(boxes: np.ndarray, sizes: np.ndarray) -> BoxSignature:
    """Tell by all boxes of a file whether they are COCO's x, y, width and height in pixels.

    Args:
        boxes: as in the file, float64 [A, 4].
        sizes: (height, width) of each box's image [A, 2].
    """
    finite = np.isfinite(boxes).all(axis=1)
    boxes, limits = boxes[finite], sizes[finite][:, ::-1].astype(np.float64)
    count = len(boxes)
    if not count:
        return BoxSignature(0, 0, None, "")
    is_outside = ~_lies_inside(boxes[:, :2], boxes[:, :2] + boxes[:, 2:], limits)
    num_outside = int(is_outside.sum())
    is_broken = (boxes % 1 != 0).any(axis=1)
    if (boxes >= 0).all() and (boxes <= 1).all() and is_broken.mean() > 0.5 and limits.min() > 4:
        form = "xyxy" if (boxes[:, :2] + boxes[:, 2:] > 1).mean() >= _LEAVING else "xywh"
        reason = f"all {count} boxes are numbers from 0 to 1, so fractions of the image"
        return BoxSignature(count, num_outside, f"{form}-fractions", reason)
    as_corners = _lies_inside(boxes[:, :2], boxes[:, 2:], limits)
    as_corners &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if count >= _FEWEST and num_outside >= _LEAVING * count and as_corners.mean() >= _INSIDE:
        reason = (
            f"as x, y, width and height {num_outside} of {count} boxes reach outside their images, "
            f"as corners {count - int(as_corners.sum())} do"
        )
        return BoxSignature(count, num_outside, "xyxy", reason)
    return BoxSignature(count, num_outside, None, "")


def _lies_inside(low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> np.ndarray:
    return ((low >= -_TOLERANCE) & (high <= limits + _TOLERANCE)).all(axis=1)
