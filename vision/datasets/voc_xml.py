"""Reading Pascal VOC annotation files, as the tools write them."""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from vision.files.guarded import read_regular
from vision.files.stand_ins import refuse_stand_in
from vision.files.text import SMALL_TEXT, decode_text, unpacked


@dataclass(frozen=True, slots=True)
class VocObject:
    """One object of an image."""

    name: str
    box: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax as written
    difficult: bool


@dataclass(frozen=True, slots=True)
class VocFile:
    """What an annotation file says of its image."""

    file_name: str  # "" where it has none
    size: tuple[int, int] | None  # (height, width); None where it has none, or 0
    objects: list[VocObject]


def read_voc_xml(path: str | Path) -> VocFile:
    """Read one annotation file.

    Raises:
        OSError: it cannot be read.
        ValueError: not XML, not an annotation, or an object without a name or a box; file and
            object are named.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise ValueError(f"{path}: its top is <{root.tag}>, where VOC has <annotation>")
    objects = [_object_of(path, i, node) for i, node in enumerate(root.iter("object"), 1)]
    return VocFile((root.findtext("filename") or "").strip(), _size_of(root), objects)


def _parse(path: str | Path) -> ElementTree.Element:
    data = read_regular(path, most_bytes=SMALL_TEXT)
    data = unpacked(data, path, most_bytes=SMALL_TEXT)
    refuse_stand_in(data[:512], path)
    try:
        return ElementTree.fromstring(data)  # by its own declaration, or mark
    except ElementTree.ParseError as error:
        problem = error
    try:  # Latin-1 without a declaration
        return ElementTree.fromstring(decode_text(data, path))
    except ElementTree.ParseError:
        raise ValueError(f"{path}: not valid XML ({problem})") from None


def _size_of(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(root.findtext(f"size/{k}") or 0)) for k in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _object_of(path: str | Path, number: int, node: ElementTree.Element) -> VocObject:
    name = " ".join((node.findtext("name") or "").split())
    if not name:
        raise ValueError(f"{path}: object {number} has no name; write its class into <name>")
    box = node.find("bndbox")
    if box is None:
        kinds = ", ".join(sorted({child.tag for child in node} & {"polygon", "robndbox", "mask"}))
        raise ValueError(
            f"{path}: object {number} ({name}) has no <bndbox>"
            + (f", but {kinds}; export boxes" if kinds else "; write it, or remove the object")
        )
    corners = tuple(_number(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(math.isfinite, corners)):
        raise ValueError(
            f"{path}: object {number} ({name}): xmin, ymin, xmax and ymax must be four numbers; "
            "correct or remove the object"
        )
    return VocObject(name, corners, _is_true(node.findtext("difficult")))


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("1", "true", "yes")
