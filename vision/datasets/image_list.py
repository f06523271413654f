"""The images below a folder, known by their suffixes."""

import os
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff"}
)
# Pictures, but of kinds that are not read here.
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jp2", ".j2k", ".jxl", ".psd", ".dng", ".cr2", ".cr3",
     ".nef", ".arw", ".raf", ".orf", ".rw2", ".svg", ".ppm", ".pgm", ".exr", ".hdr", ".tga"}
)  # fmt: skip


class ImagesBelow(NamedTuple):
    """The pictures below a folder, sorted; hidden files are left out."""

    images: list[str]  # of kinds that are read, by their suffix
    others: list[str]  # of kinds that are not


def scan_images(folder: str | Path, *, recursive: bool = True) -> ImagesBelow:
    """Look for pictures in a folder, and unless `recursive` is false in those below it.

    A folder that links lead to more than once is looked at once.
    """
    found = ImagesBelow([], [])
    seen = set()  # a link may lead back to a folder above it, or to one that is walked anyway
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                found.images.append(os.path.join(parent, name))
            elif suffix in OTHER_SUFFIXES:
                found.others.append(os.path.join(parent, name))
        if not recursive:
            folders.clear()
    found.images.sort()
    found.others.sort()
    return found


def list_images(folder: str | Path) -> list[str]:
    """All files below a folder that have an image's suffix, sorted; hidden ones are left out."""
    return scan_images(folder).images
