"""Moving unreadable images to `<folder>_invalid`, and back with the help of its report.json."""

import errno
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from vision.files.atomic_file import write_atomically
from vision.files.guarded import is_below, linked_folder, refuse_link
from vision.files.structured_text import read_json

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
_LEADS_OUT = "a link on the way to it leads out of the folder, so nothing was moved; remove it"


@dataclass(frozen=True)
class MovedImage:
    """One moved file; `file` is relative to the image folder, `moved_to` to its `_invalid`."""

    file: str
    moved_to: str
    reason: str
    size: int  # bytes
    digest: str


def invalid_folder(image_folder: Path) -> Path:
    """Return the folder for unreadable images: `<folder>_invalid`, beside the image folder."""
    return image_folder.with_name(image_folder.name + "_invalid")


def move_aside(image_folder: Path, images: list[MovedImage]) -> list[MovedImage]:
    """Move images to `<folder>_invalid/` and add them to its report.json.

    The report is written first, so that after an interruption every moved file is in it.

    Returns:
        The images with their new names.

    Raises:
        OSError: the folder is a link, or a file cannot be moved; those before it have been moved.
    """
    folder = invalid_folder(image_folder)
    refuse_link(folder)
    folder.mkdir(exist_ok=True)
    # an entry without a file is from a run that was interrupted before it moved the file
    known = [image for image in _read_report(folder) if (folder / image.moved_to).exists()]
    taken = {image.moved_to for image in known}
    moves = []
    for image in images:
        moved_to = _free_name(folder, image.file, taken)
        taken.add(moved_to)
        if not (is_below(image_folder, image.file) and is_below(folder, moved_to, strict=True)):
            raise OSError(errno.ELOOP, _LEADS_OUT, str(folder / moved_to))
        moves.append(replace(image, moved_to=moved_to))
    for target in sorted({linked_folder(image_folder, image.file) for image in images} - {None}):
        logger.warning("%s: a link leads to %s, whose files are moved", image_folder, target)
    _write_report(folder, known + moves)
    for image in moves:
        _move(image_folder / image.file, folder / image.moved_to)
    return moves


def restore(image_folder: Path, *, dry_run: bool = False) -> tuple[list[str], list[str]]:
    """Move images back from `<folder>_invalid/`; an existing file is not replaced.

    Returns:
        The restored files, and a line for each file that was not restored.

    Raises:
        OSError: the folder is a link, or a file cannot be moved; those before it have been moved.
        ValueError: there is no report.json, or it is damaged.
    """
    folder = invalid_folder(image_folder)
    refuse_link(folder)
    if not (folder / REPORT_NAME).is_file():
        raise ValueError(f"{folder / REPORT_NAME}: no such file, so there is nothing to restore")
    restored, kept, problems = [], [], []
    for image in _read_report(folder):
        if not (
            is_below(image_folder, image.file) and is_below(folder, image.moved_to, strict=True)
        ):
            kept.append(image)
            problems.append(f"{folder / REPORT_NAME}: {image.file!r} leads out of the folder")
            continue
        source, target = folder / image.moved_to, image_folder / image.file
        if source.is_dir() or source == folder / REPORT_NAME:
            kept.append(image)
            problems.append(
                f"{folder / REPORT_NAME}: {image.moved_to!r} is no image that was moved"
            )
            continue
        if not source.exists():
            if not target.exists():
                problems.append(f"{source}: is gone, and {target} is not there")
        elif target.exists():
            kept.append(image)
            problems.append(f"{target}: exists again; {source} stays")
        else:
            if not dry_run:
                _move(source, target)
            restored.append(image.file)
    if kept and not dry_run:
        _write_report(folder, kept)
    elif not dry_run:
        (folder / REPORT_NAME).unlink()
        with suppress(OSError):  # the folder has other files
            folder.rmdir()
    return restored, problems


def _free_name(folder: Path, file: str, taken: set[str]) -> str:
    """Return the name itself or, if that exists already, name.1.jpg, name.2.jpg, ..."""
    stem, suffix = os.path.splitext(file)
    name, number = file, 0
    while name in taken or name == REPORT_NAME or (folder / name).exists():
        number += 1
        name = f"{stem}.{number}{suffix}"
    return name


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise OSError(
            f"{source}: {target.parent} is on another disk; give --path without links"
        ) from None


def _read_report(folder: Path) -> list[MovedImage]:
    file = folder / REPORT_NAME
    if not file.exists():
        return []
    try:
        return msgspec.convert(read_json(file), dict[str, list[MovedImage]])["moved"]
    except (ValueError, KeyError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: is not a report of moved images ({error}); rename it") from None


def _write_report(folder: Path, images: list[MovedImage]) -> None:
    # json.dumps, not msgspec: names of files need not be UTF-8
    content = json.dumps({"moved": [asdict(image) for image in images]}, indent=2) + "\n"
    write_atomically(folder / REPORT_NAME, content.encode())
