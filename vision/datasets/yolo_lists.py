"""Reading lists of image paths, which may have been written on another machine."""

import os
from functools import lru_cache
from pathlib import Path

from vision.datasets.image_list import IMAGE_SUFFIXES
from vision.files.guarded import regular_only
from vision.files.text import decode_text, read_text

_FIRST_BYTES = 1 << 16


def read_list(root: Path, split_file: Path) -> list[str]:
    """The image files that a split file lists.

    A path that does not exist is looked for by its last parts below `root`, and in images/.

    Raises:
        OSError: the file cannot be read.
        ValueError: some images are nowhere.
    """
    places = _Places(root, split_file.parent)
    images, missing = [], []
    for number, line in enumerate(read_text(split_file).split("\n"), 1):
        if name := line.strip():
            image = places.locate(name) or places.locate(name.replace("\\", "/"))
            images.append(image)
            if image is None:
                missing.append(f"line {number} ({name})")
    if missing:
        raise ValueError(
            f"{split_file}: {len(missing)} of {len(images)} images exist neither at their path "
            f"nor as {root / 'images'}/<name>: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; restore them or remove their lines"
        )
    return images


def is_image_list(file: Path) -> bool:
    """Whether the first line of a text file is the path of an image."""
    try:
        with open(file, "rb", opener=regular_only) as stream:
            lines = decode_text(stream.read(_FIRST_BYTES), file).splitlines()
    except (OSError, ValueError):
        return False
    first = next((line.strip() for line in lines if line.strip()), "")
    return os.path.splitext(first)[1].lower() in IMAGE_SUFFIXES


class _Places:
    """Where the images of a split file may be; one listing of a folder stands for many looks.

    Args:
        root: the data set.
        base: the folder of the split file.
    """

    def __init__(self, root: Path, base: Path) -> None:
        self._root, self._base = str(root), str(base)
        self._files_in = lru_cache(maxsize=None)(_files_in)
        self._by_folder: dict[str, list[tuple[str, frozenset[str]]]] = {}

    def locate(self, name: str) -> str | None:
        """The file of an image path that may be relative, or of another machine."""
        folder, base = os.path.split(name)
        places = self._by_folder.get(folder)
        if places is None:
            places = self._by_folder[folder] = self._places_of(folder)
        for prefix, names in places:
            if base in names:
                return prefix + base
        # a disk that knows no case, or a folder that cannot be listed
        return next((place + base for place, _ in places if os.path.isfile(place + base)), None)

    def _places_of(self, folder: str) -> list[tuple[str, frozenset[str]]]:
        """Folders in which an image that is listed in `folder` may be, and their files."""
        below_images = os.path.join(folder, "").rpartition("/images/")[2]
        places = [
            os.path.join(self._root, folder),
            os.path.join(self._base, folder),
            os.path.join(self._root, "images"),
            os.path.join(self._root, "images", below_images),
            *(os.path.join(self._root, part) for part in last_parts(folder)),
        ]
        places = [os.path.join(os.path.normpath(place), "") for place in places]
        return [(place, self._files_in(place)) for place in dict.fromkeys(places)]


def last_parts(path: str) -> list[str]:
    """The path without its first part, without its first two, ...: where its end may lie here."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _files_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()
