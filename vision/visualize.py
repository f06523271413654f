"""Drawing boxes with labels on an image."""

from collections.abc import Sequence

import cv2
import numpy as np

# Colours that stay apart on photographs (RGB); a class keeps its colour by its name.
_COLORS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (0, 128, 128),
    (240, 50, 230), (128, 128, 0), (170, 110, 40), (70, 70, 220), (200, 0, 0),
)  # fmt: skip


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """Draw boxes, each with its name and score, on a copy of an image.

    Args:
        image: uint8 [H, W, 3] RGB.
        boxes: xyxy in pixels, [N, 4]; parts outside the image are not drawn.
        names: what to write at each box.
        scores: in 0..1, written after the names. The best box is drawn last, on top.

    Returns:
        uint8 [H, W, 3].
    """
    canvas = np.ascontiguousarray(image).copy()
    # Lines and letters of the same look on a thumbnail and on a 12-megapixel photograph.
    thickness = max(1, round(max(canvas.shape[:2]) / 400))
    limit = 4 * max(canvas.shape[:2])  # OpenCV draws wrongly far outside
    corners = np.nan_to_num(np.asarray(boxes, float)).clip(-limit, limit).round().astype(int)
    order = np.arange(len(corners)) if scores is None else np.argsort(scores, kind="stable")
    for i in order:
        text = names[i] if scores is None else f"{names[i]} {scores[i]:.2f}"
        _draw_box(canvas, corners[i].tolist(), text, _color_of(names[i]), thickness)
    return canvas


def _draw_box(
    canvas: np.ndarray, box: list[int], text: str, color: tuple[int, int, int], thickness: int
) -> None:
    x1, y1, x2, y2 = box
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness)
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * max(1.0, thickness / 1.5)
    # OpenCV's letters are ASCII; it would draw ??? for each byte of another.
    text = text.encode("ascii", "replace").decode()
    (width, height), below = cv2.getTextSize(text, font, scale, max(1, thickness // 2))
    # Above the box, or inside it where the image ends; never beyond the right edge.
    left = min(max(0, x1), max(0, canvas.shape[1] - width))
    bottom = y1 if y1 >= height + below else min(y1 + height + below, canvas.shape[0])
    corner = (left + width, bottom - height - below)
    cv2.rectangle(canvas, (left, bottom), corner, color, cv2.FILLED)
    cv2.putText(
        canvas, text, (left, bottom - below), font, scale, (255, 255, 255),
        max(1, thickness // 2), cv2.LINE_AA,
    )  # fmt: skip


def _color_of(name: str) -> tuple[int, int, int]:
    return _COLORS[sum(name.encode()) % len(_COLORS)]
