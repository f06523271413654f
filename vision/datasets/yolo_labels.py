"""Rows of YOLO label files as arrays: parsed, checked against the class list, clipped."""

import math
from dataclasses import dataclass

import numpy as np

from vision.datasets.findings import Findings

# Labels have six decimals: a box that sticks out by less is at the border, not outside.
_BORDER_TOLERANCE = 1e-5
# A side below this many pixels is no box; its IoU with itself would drown in rounding.
_MIN_SIDE = 0.01


@dataclass
class LabelBoxes:
    """The valid rows in file order."""

    image_indices: np.ndarray  # int64 [N]
    class_ids: np.ndarray  # int64 [N]
    boxes_xywh: np.ndarray  # float64 [N, 4], pixels, inside the image


class LabelParser:
    """Collects the rows of many label files, then checks them all at once.

    Args:
        findings: gets every row that is left out or changed, with file and line.
        strict: a malformed row or an unknown class is a ValueError naming file and line.
        has_confidence: a row may end with a confidence, which is ignored.
    """

    def __init__(
        self, findings: Findings, *, strict: bool = False, has_confidence: bool = False
    ) -> None:
        self._findings = findings
        self._strict = strict
        self._has_confidence = has_confidence
        self._files: dict[int, str] = {}
        self._rows: list[float] = []  # image index, line, class, x_center, y_center, width, height

    def add_file(self, image_index: int, label_file: str, content: bytes) -> None:
        """Parse the label file of an image."""
        self._files[image_index] = label_file
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
            try:
                values = list(map(float, line.split()))
            except ValueError:
                self._reject(label_file, number, "not a row of numbers")
                continue
            if len(values) == 5:
                self._rows += (image_index, number, *values)
            elif values:
                self._add_longer_row(image_index, number, values)

    def _add_longer_row(self, image_index: int, number: int, values: list[float]) -> None:
        """A row with a confidence, or of a segment: class, x1, y1, x2, y2, x3, y3, ..."""
        if self._has_confidence and len(values) % 2 == 0 and len(values) >= 6:
            values = values[:-1]
        if len(values) == 5:
            self._rows += (image_index, number, *values)
        elif len(values) >= 7 and len(values) % 2 == 1:
            self._rows += (image_index, number, values[0], *_box_of_segment(values[1:]))
        else:
            hint = "; is the last a confidence? (--confidence)" if len(values) == 6 else ""
            message = f"{len(values)} numbers, where 5 make a box and 7, 9, ... a segment{hint}"
            self._reject(self._files[image_index], number, message)

    def _reject(self, label_file: str, number: int, message: str) -> None:
        if self._strict:
            raise ValueError(f"{label_file}:{number}: {message}; correct or remove the row")
        self._findings.add("malformed row", label_file, message, line=number)

    def boxes(self, sizes: np.ndarray, classes: dict[int, str]) -> LabelBoxes:
        """The valid boxes, clipped to their images.

        Args:
            sizes: (height, width) of every image in pixels [I, 2].
            classes: {class id: name}; rows of other classes are left out.

        Raises:
            ValueError: a class is unknown, and the parser is strict.
        """
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 7)
        is_known = np.isin(rows[:, 2], list(classes))
        if self._strict and not is_known.all():
            raise ValueError(self._unknown_class_error(rows[~is_known], classes))
        self._note("unknown class", rows[~is_known], "class {2:g} is not in the class list")
        rows = rows[is_known]

        is_finite = np.isfinite(rows[:, 3:]).all(axis=1)
        self._note("not finite", rows[~is_finite], "the box is not finite")
        rows = rows[is_finite]

        image_indices = rows[:, 0].astype(np.int64)
        scale = sizes[image_indices][:, ::-1].astype(np.float64)  # [N, 2], (width, height)
        with np.errstate(over="ignore"):
            low, high = rows[:, 3:5] - rows[:, 5:] / 2, rows[:, 3:5] + rows[:, 5:] / 2
        clipped_low, clipped_high = low.clip(0, 1) * scale, high.clip(0, 1) * scale
        has_area = (clipped_high - clipped_low >= _MIN_SIDE).all(axis=1)
        sticks_out = (low < -_BORDER_TOLERANCE) | (high > 1 + _BORDER_TOLERANCE)
        is_clipped = has_area & sticks_out.any(axis=1)
        self._note("no area", rows[~has_area], _NO_AREA)
        self._note("clipped", rows[is_clipped], "the box reaches outside the image; clipped")
        boxes = np.concatenate([clipped_low, clipped_high - clipped_low], axis=1)
        return LabelBoxes(
            image_indices[has_area], rows[has_area, 2].astype(np.int64), boxes[has_area]
        )

    def _note(self, kind: str, rows: np.ndarray, message: str) -> None:
        for row in rows.tolist():
            self._findings.add(
                kind, self._files[int(row[0])], message.format(*row), line=int(row[1])
            )

    def _unknown_class_error(self, rows: np.ndarray, classes: dict[int, str]) -> str:
        image_index, number, class_id = rows[0, :3].tolist()
        return (
            f"{self._files[int(image_index)]}:{int(number)}: class {class_id:g} is not in the "
            f"class list, which has {min(classes)} to {max(classes)} ({len(rows)} such rows); "
            "correct the row or the list"
        )


_NO_AREA = (
    "the box of {5:g} x {6:g} at ({3:g}, {4:g}) has no area inside the image; "
    "coordinates are fractions of its size"
)


def _box_of_segment(coordinates: list[float]) -> tuple[float, float, float, float]:
    """(x_center, y_center, width, height) around the points of a segment."""
    if not all(map(math.isfinite, coordinates)):
        return math.nan, math.nan, math.nan, math.nan
    xs, ys = coordinates[::2], coordinates[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
