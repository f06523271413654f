"""The rows of numbers in label files, as flat arrays; many files at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class LabelRows:
    """Rows in the order of the files; blank lines are left out, but counted as lines."""

    values: np.ndarray  # float64 [V], of all rows one after the other
    lengths: np.ndarray  # int64 [R], values of each row; 0: it is not of numbers
    file_indices: np.ndarray  # int64 [R], position of its file
    lines: np.ndarray  # int64 [R], from 1


def read_rows(contents: Sequence[bytes]) -> LabelRows:
    """Read the rows of label files, each number as `float` reads it."""
    values: list[float] = []
    lengths, file_indices, lines = [], [], []
    for file_index, content in enumerate(contents):
        for number, line in enumerate(content.splitlines(), 1):
            words = line.split()
            if not words:
                continue
            try:
                row = list(map(float, words))
            except ValueError:
                row = []
            values += row
            lengths.append(len(row))
            file_indices.append(file_index)
            lines.append(number)
    return LabelRows(
        values=np.array(values, dtype=np.float64),
        lengths=np.array(lengths, dtype=np.int64),
        file_indices=np.array(file_indices, dtype=np.int64),
        lines=np.array(lines, dtype=np.int64),
    )


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The positions starts[0], starts[0] + 1, ... of each span, one after the other.

    Args:
        starts: int64 [N].
        lengths: int64 [N].

    Returns:
        int64 [lengths.sum()].
    """
    firsts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)
