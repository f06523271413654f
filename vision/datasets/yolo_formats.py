"""What a row of a YOLO label file may hold besides a box, and how that is recognised."""

from collections import Counter

import numpy as np

from vision.datasets.yolo_rows import LabelRows, spans

# box: class x y width height. segment: class and the corners of a polygon. obb: class and four
# corners. pose: a box, then key points. track: a box, then its track's number, as --save_txt writes
# it (with or without a confidence). auto: a box by 5 numbers, a polygon by 7, 9, 11, ...
LABEL_FORMATS = ("auto", "box", "segment", "obb", "pose", "track")

_SAMPLE = 4096  # rows of each length that a signature is taken from


def usable_rows(lengths: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Tell by their lengths [R] which rows begin with a box, and which are polygons: bool [R]."""
    none = np.zeros(len(lengths), bool)
    polygons = (lengths >= 7) & (lengths % 2 == 1)
    return {
        "auto": (lengths == 5, polygons),
        "box": (lengths == 5, none),
        "segment": (none, polygons),
        "obb": (none, lengths == 9),
        "pose": (lengths >= 7, none),
        "track": ((lengths == 6) | (lengths == 7), none),
    }[form]


class FormatSignature:
    """Collects rows that `auto` takes for polygons, and tells whether they are something else."""

    def __init__(self) -> None:
        self._lengths: Counter[int] = Counter()
        self._rows: dict[int, list[np.ndarray]] = {}

    def add(self, rows: LabelRows) -> None:
        """Look at the rows of some label files."""
        starts = np.cumsum(rows.lengths) - rows.lengths
        for length, count in zip(*np.unique(rows.lengths, return_counts=True), strict=True):
            kept = self._rows.setdefault(int(length), [])
            missing = _SAMPLE - self._lengths[int(length)]
            self._lengths[int(length)] += int(count)
            if length >= 6 and missing > 0:
                chosen = starts[rows.lengths == length][:missing]
                lengths = np.full(len(chosen), length)
                kept.append(rows.values[spans(chosen, lengths)].reshape(-1, length))

    def looks_like(self) -> str | None:
        """The format that all rows together speak for, with the reason; None: boxes or polygons."""
        lengths = [length for length in self._lengths if length]
        if len(lengths) != 1 or lengths[0] < 6:
            return None
        table = np.concatenate(self._rows[lengths[0]])
        count, length = self._lengths[lengths[0]], lengths[0]
        numbers = table[:, -1]
        if length in (6, 7) and (numbers % 1 == 0).all() and numbers.max() > 1:
            return f"track: all {count} rows have {length} numbers, of which the last is whole"
        if length >= 9 and _points_in_boxes(table) >= 0.99:
            return (
                f"pose: all {count} rows have {length} numbers, whose points lie in the box of the "
                "first four"
            )
        return None


def _points_in_boxes(table: np.ndarray) -> float:
    """The share of rows [R, L] whose points lie in the box before them, for the better reading."""
    rest = table[:, 5:]
    shares = [0.0]
    for step in (2, 3):  # x y, or x y visibility
        if rest.shape[1] % step or rest.shape[1] // step < 2:
            continue
        points = rest.reshape(len(rest), -1, step)[:, :, :2]
        distance = np.abs(points - table[:, None, 1:3])
        inside = (distance <= table[:, None, 3:5] / 2 + 0.02).all(axis=2)
        absent = (points == 0).all(axis=2)
        shares.append(float(((inside | absent).all(axis=1) & inside.any(axis=1)).mean()))
    return max(shares)
