"""Comparing the image files with what annotations say of them: names and sizes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vision.datasets.coco_folder import split_files
from vision.datasets.coco_json import CocoJson, ImageRecord
from vision.datasets.findings import Findings
from vision.datasets.image_names import ImageFinder
from vision.datasets.layouts.choose import LAYOUTS
from vision.datasets.layouts.layout import NO_OPTIONS, OpenOptions, Source
from vision.files.guarded import is_inside
from vision.validate.image_check import ImageCheck


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """What annotations say of an image; `size` is (height, width) in pixels."""

    annotation_file: str
    size: tuple[int, int] | None


@dataclass
class Annotations:
    """What a folder of images is compared with.

    Attributes:
        files: pairs of a COCO file and the folder that its file names are relative to.
        sources: splits of another layout.
        lists_all: whether an image that no split has is a mistake.
        problems: {file or folder: why it cannot be read}.
    """

    files: list[tuple[Path, Path]] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    lists_all: bool = True
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What was found, for a report."""
        files = [str(file) for file, _ in self.files]
        return files + [source.index.annotation_file for source in self.sources]


def find_annotations(
    image_folder: Path, *, layout: str = "auto", options: OpenOptions = NO_OPTIONS
) -> Annotations:
    """Find what a folder of images, or a whole data set folder, is to be compared with.

    Args:
        image_folder: its own splits count, and those of the two folders above whose images are in
            it or below it.
        layout: one of DATASET_TYPES; "auto": COCO's, or the first other one that is there.
        options: how to read another layout than COCO's.
    """
    files = find_annotation_files(image_folder) if layout in ("auto", "coco") else []
    if files or layout == "coco":
        return Annotations(files)
    names = [name for name in LAYOUTS if name != "coco"] if layout == "auto" else [layout]
    problems: dict[str, str] = {}
    for root in _roots(image_folder):
        for name in names:
            if layout == "auto" and not LAYOUTS[name].recognise(root, None):
                continue
            found = _open(root, name, options, image_folder)
            if found.sources:
                return found
            problems |= {place: why for place, why in found.problems.items() if not problems}
    return Annotations(problems=problems)


def _open(root: Path, name: str, options: OpenOptions, image_folder: Path) -> Annotations:
    """The splits of a data set that have images in the folder, and why others cannot be read."""
    found = Annotations(lists_all=LAYOUTS[name].lists_all)
    try:
        folder = LAYOUTS[name](root, options)
    except (OSError, ValueError) as error:
        return Annotations(problems={str(root): str(error)})
    for split in folder.splits:
        try:
            source = folder.open(split)
        except (OSError, ValueError) as error:
            found.problems[f"split {split} of {root}"] = str(error)
        else:
            if any(True for _ in _names_inside(source, os.path.realpath(image_folder))):
                found.sources.append(source)
    return found


def _names_inside(source: Source, folder: str) -> Iterator[tuple[str, int]]:
    """(path relative to the folder, position) of the images of a split that are below it."""
    below = _place_below(source.image_folder, folder)
    for row in range(len(source.index)):
        name = os.path.normpath(os.path.join(below, source.index.file_name(row)))
        if is_inside(name):
            yield name, row


def _place_below(path: str | Path, folder: str) -> str:
    """A folder's path relative to another, through the links on the way if it lies below so."""
    place = os.path.relpath(path, folder)
    return place if is_inside(place) else os.path.relpath(os.path.realpath(path), folder)


def _roots(image_folder: Path) -> list[Path]:
    folder = Path(os.path.realpath(image_folder))
    return [folder, *list(folder.parents)[:2]]


def find_annotation_files(image_folder: Path) -> list[tuple[Path, Path]]:
    """Find the COCO files of the splits whose images are in the folder or below it.

    Returns:
        Pairs of an annotation file and the folder that its file names are relative to.
    """
    folder = os.path.realpath(image_folder)
    found = []
    for root in _roots(image_folder):
        for split in ("train", "val", "test"):
            try:
                annotation_file, names_folder = split_files(root, split)
            except ValueError:
                continue  # this root has no such split
            pair = (annotation_file, names_folder)
            # One file may be for all splits.
            if is_inside(_place_below(names_folder, folder)):
                found += [pair] if pair not in found else []
    return found


class ImageEntries:
    """What annotations say of images, by the image's path relative to the checked folder.

    Annotations that cannot be read, an image with two entries in COCO files, and a name that leads
    out of the folder become findings.

    Args:
        image_folder: the folder that is checked.
        annotations: of its images.
    """

    def __init__(self, image_folder: Path, annotations: Annotations, findings: Findings) -> None:
        self.by_name: dict[str, ImageEntry] = {}
        self._folders: list[str] = []
        self._root = root = os.path.realpath(image_folder)
        for place, problem in annotations.problems.items():
            findings.add("annotations unreadable", place, problem)
        for source in annotations.sources:
            for name, row in _names_inside(source, root):
                size = tuple(source.index.sizes[row].tolist())
                self.by_name.setdefault(name, ImageEntry(source.index.annotation_file, size))
            if annotations.lists_all:
                self._expect_all(_place_below(source.image_folder, root))
        for annotation_file, names_folder in annotations.files:
            folder = _place_below(names_folder, root)
            try:
                self._read(annotation_file, folder, findings)
            except (OSError, ValueError) as error:
                findings.add("annotations unreadable", str(annotation_file), str(error))

    def _read(self, annotation_file: Path, folder: str, findings: Findings) -> None:
        finder = ImageFinder(os.path.join(self._root, folder))
        for _, _, records in CocoJson(annotation_file).chunks("images", ImageRecord):
            for record in records:
                found = finder.find(record.file_name) or record.file_name
                name = os.path.normpath(os.path.join(folder, found))
                if not is_inside(name):
                    message = f"the name that {annotation_file} gives leads out of the folder"
                    findings.add("name outside the folder", name, message)
                    continue
                if name in self.by_name:
                    message = f"{self.by_name[name].annotation_file} and {annotation_file}"
                    findings.add("two entries", name, f"has entries in {message}")
                size = None
                if record.height is not None and record.width is not None:
                    size = (int(record.height), int(record.width))
                self.by_name[name] = ImageEntry(str(annotation_file), size)
        self._expect_all(folder)

    def _expect_all(self, folder: str) -> None:
        self._folders.append("" if folder == os.curdir else os.path.join(folder, ""))

    def expects(self, name: str) -> bool:
        """Whether an image with this path should have an entry."""
        return any(name.startswith(folder) for folder in self._folders)


def compare_size(check: ImageCheck, entry: ImageEntry) -> tuple[str, str] | None:
    """Return (kind, message) if a valid image has another size than its entry, else None."""
    if entry.size is None or check.upright_size == entry.size:
        return None
    stated = f"{entry.size[1]}x{entry.size[0]} in {entry.annotation_file}"
    found = f"{check.upright_size[1]}x{check.upright_size[0]} pixels"
    if check.stored_size == entry.size:
        return "rotated", f"{found} upright by EXIF, but {stated}: annotated without rotation"
    if check.upright_size == entry.size[::-1]:
        return "rotated", f"{found}, but {stated}: turned before or after the annotation"
    return "wrong size", f"{found}, but {stated}"
