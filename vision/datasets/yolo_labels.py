"""Rows of YOLO label files as arrays: parsed, checked against the class list, clipped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision.datasets.findings import Findings
from vision.datasets.yolo_formats import FormatSignature, usable_rows
from vision.datasets.yolo_rows import LabelRows, spans

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

    def __len__(self) -> int:
        return len(self.class_ids)

    def take(self, rows: np.ndarray) -> "LabelBoxes":
        """Some of the rows: bool [N]."""
        return LabelBoxes(self.image_indices[rows], self.class_ids[rows], self.boxes_xywh[rows])


class LabelParser:
    """Collects the rows of many label files, then checks them all at once.

    Args:
        findings: gets every row that is left out or changed, with file and line.
        strict: a malformed row or an unknown class is a ValueError naming file and line.
        has_confidence: a row may end with a confidence, which is ignored.
        label_format: what a row holds, one of LABEL_FORMATS.
    """

    def __init__(
        self,
        findings: Findings,
        *,
        strict: bool = False,
        has_confidence: bool = False,
        label_format: str = "auto",
    ) -> None:
        self._findings = findings
        self._strict = strict
        self._has_confidence = has_confidence
        self._format = label_format
        self._signature = FormatSignature()
        self.num_rows = 0
        self.first_file: str | None = None  # that has a row
        self._files: list[str] = []
        # image index, line, class, x_center, y_center, width, height
        self._tables: list[np.ndarray] = [np.empty((0, 7))]

    def add(self, label_files: Sequence[str], rows: LabelRows) -> None:
        """Take the rows of the label files of the next images, one file each."""
        images = rows.file_indices + len(self._files)
        self._files += label_files
        if len(images) and self.first_file is None:
            self.first_file = self._files[images[0]]
        self.num_rows += len(images)
        lengths = rows.lengths
        if self._has_confidence:
            lengths = lengths - ((lengths >= 6) & (lengths % 2 == 0))
        self._signature.add(rows)
        starts = np.cumsum(rows.lengths) - rows.lengths
        is_box, is_segment = usable_rows(lengths, self._format)
        for row in np.flatnonzero(~(is_box | is_segment)).tolist():
            self._reject(int(images[row]), int(rows.lines[row]), int(lengths[row]))

        table = np.empty((len(lengths), 7))
        table[:, 0], table[:, 1] = images, rows.lines
        table[is_box, 2:] = rows.values[starts[is_box, None] + np.arange(5)]
        table[is_segment, 2] = rows.values[starts[is_segment]]
        table[is_segment, 3:] = _boxes_of_segments(
            rows.values[spans(starts[is_segment] + 1, lengths[is_segment] - 1)],
            lengths[is_segment] // 2,
        )
        self._tables.append(table[is_box | is_segment])

    def _reject(self, image_index: int, number: int, length: int) -> None:
        label_file = self._files[image_index]
        hint = "; is the last a confidence? (--confidence)" if length == 6 else ""
        message = f"{length} numbers, where 5 make a box and 7, 9, ... a segment{hint}"
        if self._format != "auto":
            message = f"{length} numbers, which --label-format {self._format} does not have"
        if length == 0:
            message = "not a row of numbers"
        if self._strict:
            raise ValueError(f"{label_file}:{number}: {message}; correct or remove the row")
        self._findings.add("malformed row", label_file, message, line=number)

    def boxes(self, sizes: np.ndarray, classes: dict[int, str]) -> LabelBoxes:
        """The valid boxes, clipped to their images.

        Args:
            sizes: (height, width) of every image in pixels [I, 2].
            classes: {class id: name}; rows of other classes are left out.

        Raises:
            ValueError: a class is unknown, and the parser is strict; or the rows look like another
                format than they are read as.
        """
        other = self._signature.looks_like() if self._format == "auto" else None
        if other:
            name = other.split(":")[0]
            raise ValueError(
                f"{self.first_file}: its rows, and those of the other label files, look like "
                f"{other}; read them with --label-format {name}, or with --label-format segment as "
                "polygons"
            )
        rows = np.concatenate(self._tables)
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


def _boxes_of_segments(coordinates: np.ndarray, num_points: np.ndarray) -> np.ndarray:
    """(x_center, y_center, width, height) around the points of each segment.

    Args:
        coordinates: x1, y1, x2, y2, ... of all segments, float64 [2 * num_points.sum()].
        num_points: int64 [N].

    Returns:
        float64 [N, 4]; not finite where a coordinate is not.
    """
    if not len(num_points):
        return np.empty((0, 4))
    points = coordinates.reshape(-1, 2)
    firsts = np.cumsum(num_points) - num_points
    low = np.minimum.reduceat(points, firsts, axis=0)
    high = np.maximum.reduceat(points, firsts, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([(low + high) / 2, high - low], axis=1)
