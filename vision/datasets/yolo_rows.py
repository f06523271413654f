"""The rows of numbers in label files, as flat arrays; many files at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

_BOM = b"\xef\xbb\xbf"
_TO_COMMAS = bytes.maketrans(b" \n", b",,")
_NOT_SEPARATORS = bytes(set(range(256)) - set(b" \n"))
_decoder = msgspec.json.Decoder(list[float])


@dataclass
class LabelRows:
    """Rows in the order of the files; blank lines are left out, but counted as lines."""

    values: np.ndarray  # float64 [V], of all rows one after the other
    lengths: np.ndarray  # int64 [R], values of each row; 0: it is not of numbers
    file_indices: np.ndarray  # int64 [R], position of its file
    lines: np.ndarray  # int64 [R], from 1


def read_rows(contents: Sequence[bytes]) -> LabelRows:
    """Read the rows of label files.

    Rows are as `float` reads them. Files of plain numbers, one space apart, are JSON but for the
    commas, and msgspec reads all of them in one go; it refuses any other spelling. A file that
    has one is read a line at a time, which takes longer.
    """
    texts = [content.removeprefix(_BOM).rstrip().replace(b"\r\n", b"\n") for content in contents]
    indices = [index for index, text in enumerate(texts) if text]
    try:
        return _read_plain(texts, indices)
    except ValueError:
        plain = [index for index in indices if _is_plain(texts[index])]
    others = sorted(set(indices).difference(plain))
    parts = [read_lines(index, contents[index]) for index in others]
    return _joined([_read_plain(texts, plain), *parts])


def _decode(text: bytes) -> list[float]:
    # What JSON takes in another way: its own commas, spaces that end a line here, and -0.
    if b"," in text or b"\r" in text or b"-0" in text:
        raise ValueError("not plain")
    return _decoder.decode(b"[" + text.translate(_TO_COMMAS) + b"]")


def _is_plain(text: bytes) -> bool:
    try:
        _decode(text)
    except ValueError:
        return False
    return True


def _read_plain(texts: list[bytes], indices: list[int]) -> LabelRows:
    """Rows of the files at `indices`; ValueError where one of them is not plain."""
    text = b"\n".join([texts[index] for index in indices])
    values = np.array(_decode(text), dtype=np.float64)
    separators = np.frombuffer(text.translate(None, _NOT_SEPARATORS) + b"\n", dtype=np.uint8)
    ends = np.flatnonzero(separators == ord("\n")) + 1
    counts = np.array([texts[index].count(b"\n") + 1 for index in indices], dtype=np.int64)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    return LabelRows(
        values=values,
        lengths=np.diff(ends, prepend=0)[: len(firsts)],  # without files there is no row
        file_indices=np.repeat(np.array(indices, dtype=np.int64), counts),
        lines=np.arange(len(firsts)) - firsts + 1,
    )


def read_lines(file_index: int, content: bytes) -> LabelRows:
    """Read the rows of one label file a line at a time, as `float` reads the numbers."""
    values, lengths, lines = [], [], []
    for number, line in enumerate(content.removeprefix(_BOM).splitlines(), 1):
        try:
            row = list(map(float, line.split()))
        except ValueError:
            row = []
        if row or line.strip():
            values += row
            lengths.append(len(row))
            lines.append(number)
    return LabelRows(
        values=np.array(values, dtype=np.float64),
        lengths=np.array(lengths, dtype=np.int64),
        file_indices=np.full(len(lines), file_index, dtype=np.int64),
        lines=np.array(lines, dtype=np.int64),
    )


def _joined(parts: list[LabelRows]) -> LabelRows:
    """One table, its rows by file."""
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    file_indices = np.concatenate([part.file_indices for part in parts])
    lines = np.concatenate([part.lines for part in parts])
    order = np.argsort(file_indices, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    return LabelRows(
        values=values[spans(starts, lengths[order])],
        lengths=lengths[order],
        file_indices=file_indices[order],
        lines=lines[order],
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
