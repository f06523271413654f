"""Validating a folder: decode every image, compare its name and size with its annotations."""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from vision.datasets.findings import Findings, no_progress
from vision.datasets.image_list import scan_images
from vision.files.guarded import is_below
from vision.validate.image_check import UNREADABLE, check_images
from vision.validate.image_entries import Annotations, ImageEntries, compare_size
from vision.validate.quarantine import MovedImage, invalid_folder

logger = logging.getLogger(__name__)


def validate_folder(
    image_folder: Path,
    annotations: Annotations,
    *,
    workers: int,
    findings: Findings,
    progress: Callable[..., Iterable] = no_progress,
) -> tuple[int, list[MovedImage]]:
    """Decode every image below a folder; nothing is moved or changed.

    Args:
        image_folder: searched with its subfolders.
        annotations: what its images are compared with.
        workers: number of processes.
        findings: collects everything that is wrong.
        progress: wraps the iterator over the images; called with `total=`, as tqdm is.

    Returns:
        The number of files, and the unreadable ones (not moved yet).

    Raises:
        OSError: the worker processes cannot run.
        ValueError: the folder does not exist, or has no image.
    """
    if not image_folder.is_dir():
        raise ValueError(f"{image_folder}: no such folder; give the one that holds the images")
    prefix = os.path.join(image_folder, "")
    found = scan_images(image_folder)
    if found.others:
        logger.warning(
            "%s: passed over, as %d more: kinds of pictures that are not read",
            found.others[0], len(found.others) - 1,
        )  # fmt: skip
    names = [file[len(prefix) :] for file in found.images]
    entries = ImageEntries(image_folder, annotations, findings)
    images = set(names)
    names += _find_missing(image_folder, entries, images, findings)
    if not names:
        raise ValueError(f"{image_folder}: no image files in it; give the folder that holds them")
    unreadable = []
    files = [prefix + name for name in names]
    for check in progress(check_images(files, workers=workers), total=len(files)):
        name = check.file[len(prefix) :]
        entry = entries.by_name.get(name)
        if check.kind is not None:
            findings.add(check.kind, check.file, check.message)
        elif entry is not None and (difference := compare_size(check, entry)):
            findings.add(difference[0], check.file, difference[1])
        if entry is None and entries.expects(name):
            findings.add("file without entry", check.file, "no annotation file has an entry for it")
        # What only an annotation calls an image may be any file of the user's behind a link.
        is_ours = check.kind in UNREADABLE and is_below(
            image_folder, name, strict=name not in images
        )
        if check.kind in UNREADABLE and not is_ours:
            message = "a link on the way to it leads out of the folder; move it yourself"
            findings.add("not moved", check.file, message)
        elif is_ours:
            reason = f"{check.kind}: {check.message}"
            digest = f"sha256:{check.sha256}"
            unreadable.append(MovedImage(name, name, reason, check.num_bytes, digest))
    return len(files), unreadable


def _find_missing(
    image_folder: Path, entries: ImageEntries, names: set[str], findings: Findings
) -> list[str]:
    """Look for the files of entries that were not listed as images.

    Returns:
        The names of those that exist (with an unusual suffix); the others become findings.
    """
    found = []
    for name in sorted(entries.by_name.keys() - names):
        if (image_folder / name).is_file():
            found.append(name)
            continue
        moved = invalid_folder(image_folder) / name
        place = f"; it was moved to {moved}" if moved.is_file() else ""
        annotation_file = entries.by_name[name].annotation_file
        message = f"has an entry in {annotation_file}, but no file{place}"
        findings.add("entry without file", str(image_folder / name), message)
    return found
