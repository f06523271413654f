"""Reading the CSV files of Open Images: boxes, and the names of classes."""

import csv
import math
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vision.files.text import open_lines

_NEEDED = ("ImageID", "XMin", "XMax", "YMin", "YMax")


@dataclass(slots=True)
class OpenImagesBox:
    """One row: corners in 0..1 of the image's sides."""

    image_id: str
    name: str
    corners: tuple[float, float, float, float]  # left, top, right, bottom
    is_group: bool
    is_depiction: bool


def read_class_names(path: str | Path) -> dict[str, str]:
    """{label: name} of class-descriptions-boxable.csv, which has no header.

    Raises:
        OSError, ValueError: it cannot be read, or a row has not two columns; the line is named.
    """
    names = {}
    with _open_rows(path) as rows:
        for number, row in enumerate(rows, 1):
            if row and len(row) != 2:
                raise ValueError(f"{path}:{number}: a label and a name are needed, not {row[:3]}")
            names.update([row] if row and row[0] != "LabelName" else [])
    return {label: " ".join(name.split()) for label, name in names.items()}


def read_boxes(
    path: str | Path, *, names: dict[str, str] | None = None, wanted: Container[str] | None = None
) -> Iterator[OpenImagesBox]:
    """Yield the boxes of an annotations file, which may be of any size.

    Args:
        path: with a header, in any order of columns. ClassName holds the name, as in the files that
            open_images_downloader.py writes; otherwise LabelName, which `names` explains.
        names: of labels.
        wanted: image ids; the rows of others are passed over.

    Raises:
        OSError: it cannot be read.
        ValueError: a column is absent, or a row holds no box; file, line and value are named.
    """
    with _open_rows(path) as rows:
        columns = {name.strip(): i for i, name in enumerate(next(rows, []))}
        absent = [name for name in _NEEDED if name not in columns]
        if "ClassName" not in columns and "LabelName" not in columns:
            absent.append("ClassName or LabelName")
        if absent:
            raise ValueError(
                f"{path}: its first line names no {', '.join(absent)}; is it an annotations-bbox "
                "file of Open Images?"
            )
        image_column = columns["ImageID"]
        for number, row in enumerate(rows, 2):
            try:
                if row and (wanted is None or row[image_column] in wanted):
                    yield _box_of(row, columns, names)
            except (IndexError, ValueError, KeyError) as error:
                raise ValueError(f"{path}:{number}: not a row of a box ({error})") from None


@contextmanager
def _open_rows(path: str | Path) -> Iterator[Iterator[list[str]]]:
    with open_lines(path) as lines:
        rows = csv.reader(lines)
        try:
            yield rows
        except csv.Error as error:
            raise ValueError(f"{path}:{rows.line_num}: not CSV ({error})") from None


def _box_of(row: list[str], columns: dict[str, int], names: dict[str, str] | None) -> OpenImagesBox:
    left, right, top, bottom = (
        float(row[columns[key]]) for key in ("XMin", "XMax", "YMin", "YMax")
    )
    if not all(map(math.isfinite, (left, right, top, bottom))):
        raise ValueError("its corners are not four numbers")
    name = row[columns["ClassName"]] if "ClassName" in columns else ""
    if not name:
        label = row[columns["LabelName"]]
        if names is not None and label not in names:
            raise ValueError(
                f"no list of classes has its label {label!r}; take that of its release"
            )
        name = label if names is None else names[label]
    is_group, is_depiction = (  # 1: yes; 0: no; -1: not known
        key in columns and row[columns[key]].strip() == "1" for key in ("IsGroupOf", "IsDepiction")
    )
    corners = (left, top, right, bottom)
    name = " ".join(name.split())
    return OpenImagesBox(row[columns["ImageID"]], name, corners, is_group, is_depiction)
