"""Comparing the `images` entries of COCO files with the image files: names and sizes."""

import os
from dataclasses import dataclass
from pathlib import Path

from vision.datasets.coco_folder import split_files
from vision.datasets.coco_json import CocoJson, ImageRecord
from vision.datasets.findings import Findings
from vision.datasets.image_names import ImageFinder
from vision.files.guarded import is_inside
from vision.validate.image_check import ImageCheck


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """The entry of an image in an annotation file; `size` is (height, width) in pixels."""

    annotation_file: str
    size: tuple[int, int] | None


def find_annotation_files(image_folder: Path) -> list[tuple[Path, Path]]:
    """Find the annotation files of the splits whose images are in the folder or below it.

    Returns:
        Pairs of an annotation file and the folder that its file names are relative to.
    """
    folder = os.path.realpath(image_folder)
    found = []
    for root in (Path(folder), *list(Path(folder).parents)[:2]):
        for split in ("train", "val", "test"):
            try:
                annotation_file, names_folder = split_files(root, split)
            except ValueError:
                continue  # this root has no such split
            if os.path.commonpath([folder, os.path.realpath(names_folder)]) == folder:
                found.append((annotation_file, names_folder))
    return found


class ImageEntries:
    """The image entries of annotation files, by the image's path relative to the checked folder.

    An annotation file that cannot be read, an image with two entries, and a name that leads out of
    the folder become findings.

    Args:
        image_folder: the folder that is checked.
        annotation_files: pairs of an annotation file and the folder its file names are relative to.
    """

    def __init__(
        self, image_folder: Path, annotation_files: list[tuple[Path, Path]], findings: Findings
    ) -> None:
        self.by_name: dict[str, ImageEntry] = {}
        self._folders: list[str] = []
        self._root = root = os.path.realpath(image_folder)
        for annotation_file, names_folder in annotation_files:
            folder = os.path.relpath(os.path.realpath(names_folder), root)
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
