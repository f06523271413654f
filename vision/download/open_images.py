"""Fetching a part of Open Images: the annotations, what is chosen of them, and the images."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vision.datasets.image_headers import image_size
from vision.datasets.open_images_csv import OpenImagesBox, read_boxes, read_class_names
from vision.download.download import fetch
from vision.download.http_answer import DownloadError
from vision.files.atomic_file import write_atomically

ANNOTATIONS_URL = "https://storage.googleapis.com/openimages/2018_04"
IMAGES_URL = "https://open-images-dataset.s3.amazonaws.com"
SPLITS = ("train", "validation", "test")
_CLASSES = "class-descriptions-boxable.csv"
_HEADER = ("ImageID", "ClassName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf", "IsDepiction")
# Far more than these files have: a server could fill the disk.
_MOST_OF_CLASSES, _MOST_OF_BOXES, _MOST_OF_IMAGE = 1 << 26, 1 << 34, 1 << 28
_IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
Boxes = list[OpenImagesBox]


@dataclass(frozen=True)
class Server:
    """Where everything is fetched from."""

    annotations: str
    images: str
    timeout: float = 60.0
    retries: int = 10

    def fetch(self, url: str, path: Path, *, most_bytes: int) -> None:
        """Fetch a file that is not there yet; one of more than `most_bytes` is refused.

        Raises:
            DownloadError: the server refuses, or the retries are used up; names the URL.
            OSError: the disk is full or not writable.
        """
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            limits = {"timeout": self.timeout, "retries": self.retries, "most_bytes": most_bytes}
            fetch(url, path, **limits)


@dataclass(frozen=True)
class Choice:
    """Which images and boxes are wanted; 0 or less, as in the family's calls, sets no limit."""

    class_names: Sequence[str]
    max_images: int = 0
    max_boxes_per_class: int = 0
    with_other_classes: bool = False
    with_depictions: bool = False
    remove_overlapped: bool = False
    seed: int = 0

    def of_known(self, known: Iterable[str], root: Path) -> "Choice":
        """The same with the names as Open Images spells them; capitals are free, as in the family.

        Raises:
            ValueError: Open Images has no boxes of a class; the nearest names are given.
        """
        known = sorted(known)
        spelled = {name.lower(): name for name in known} | {name: name for name in known}
        for name in self.class_names:
            if name not in spelled and name.lower() not in spelled:
                near = get_close_matches(name, known, n=3, cutoff=0.5)
                raise ValueError(
                    f"--class-names: Open Images has no boxes of {name!r}"
                    + (f"; near: {', '.join(near)}" if near else "")
                    + f"; {root / _CLASSES} lists all"
                )
        names = [spelled.get(name) or spelled[name.lower()] for name in self.class_names]
        return replace(self, class_names=list(dict.fromkeys(names)))


def fetch_class_names(server: Server, root: Path) -> dict[str, str]:
    """{label: name} of all classes with boxes."""
    server.fetch(f"{server.annotations}/{_CLASSES}", root / _CLASSES, most_bytes=_MOST_OF_CLASSES)
    return read_class_names(root / _CLASSES)


def fetch_rows(server: Server, root: Path, split: str, names: dict[str, str]) -> Iterable:
    """The official annotations of a split, read anew at each iteration."""
    path = root / f"{split}-annotations-bbox.csv"
    server.fetch(f"{server.annotations}/{split}/{path.name}", path, most_bytes=_MOST_OF_BOXES)
    return _Rows(path, names)


@dataclass(frozen=True)
class _Rows:
    """The boxes of a CSV file, which is read anew at each iteration: it may fill the memory."""

    path: Path
    names: dict[str, str]

    def __iter__(self) -> Iterator[OpenImagesBox]:
        return read_boxes(self.path, names=self.names)


def choose_boxes(rows: dict[str, Iterable[OpenImagesBox]], choice: Choice) -> dict[str, Boxes]:
    """Choose the boxes of each split.

    Args:
        rows: the official annotations.
        choice: what is wanted.
    """
    chosen = {split: _of_classes(boxes, choice) for split, boxes in rows.items()}
    rng = np.random.default_rng(choice.seed)
    if choice.remove_overlapped:
        chosen = {split: _without_overlapped(boxes) for split, boxes in chosen.items()}
    if choice.max_boxes_per_class > 0:
        chosen = _limit_boxes(chosen, choice, rng)
    if choice.max_images > 0:
        chosen = _limit_images(chosen, choice.max_images, rng)
    if choice.with_other_classes:
        chosen = {s: _everything_in(rows[s], boxes, choice) for s, boxes in chosen.items()}
    return chosen


def _of_classes(boxes: Iterable[OpenImagesBox], choice: Choice) -> Boxes:
    names = set(choice.class_names)
    return [
        box
        for box in boxes
        if box.name in names and (choice.with_depictions or not box.is_depiction)
    ]


def _everything_in(rows: Iterable[OpenImagesBox], boxes: Boxes, choice: Choice) -> Boxes:
    images = {box.image_id for box in boxes}
    return [
        box
        for box in rows
        if box.image_id in images and (choice.with_depictions or not box.is_depiction)
    ]


def _without_overlapped(boxes: Boxes) -> Boxes:
    """Leave out single boxes whose centre lies in a group box of their class and image."""
    groups: dict[tuple[str, str], list] = {}
    for box in boxes:
        if box.is_group:
            groups.setdefault((box.image_id, box.name), []).append(box.corners)

    def is_covered(box: OpenImagesBox) -> bool:
        """Tell whether the centre of a box lies in a group box of its class and image."""
        left, top, right, bottom = box.corners
        x, y = (left + right) / 2, (top + bottom) / 2
        return any(g[0] <= x <= g[2] and g[1] <= y <= g[3]
                   for g in groups.get((box.image_id, box.name), ()))  # fmt: skip

    return [box for box in boxes if box.is_group or not is_covered(box)]


def _limit_boxes(
    chosen: dict[str, Boxes], choice: Choice, rng: np.random.Generator
) -> dict[str, Boxes]:
    """Take whole images in a random order as long as a class in them has room.

    An image is never taken with a part of its boxes: what is left out would be background.
    """
    images: dict[tuple[str, str], Boxes] = {}
    for split, boxes in chosen.items():
        for box in boxes:
            images.setdefault((split, box.image_id), []).append(box)
    taken: dict[str, Boxes] = {split: [] for split in chosen}
    counts: Counter[str] = Counter()
    keys = list(images)
    for i in rng.permutation(len(keys)).tolist():
        boxes = images[keys[i]]
        more = Counter(box.name for box in boxes)
        if all(counts[name] + n <= choice.max_boxes_per_class for name, n in more.items()):
            counts += more
            taken[keys[i][0]] += boxes
    return taken


def _limit_images(
    chosen: dict[str, Boxes], most: int, rng: np.random.Generator
) -> dict[str, Boxes]:
    """Choose images at random over all splits, so that each keeps its share."""
    images = [
        (s, i) for s, boxes in chosen.items() for i in dict.fromkeys(b.image_id for b in boxes)
    ]
    kept = {images[i] for i in rng.permutation(len(images))[:most].tolist()}
    return {s: [b for b in boxes if (s, b.image_id) in kept] for s, boxes in chosen.items()}


def describe(chosen: dict[str, Boxes], choice: Choice) -> list[str]:
    """Images and boxes of each split and class."""
    lines = []
    for split, boxes in chosen.items():
        images = len({box.image_id for box in boxes})
        counts = Counter(box.name for box in boxes)
        shown = ", ".join(f"{name} {counts[name]}" for name in choice.class_names)
        others = sum(counts.values()) - sum(counts[name] for name in choice.class_names)
        shown += f", other classes {others}" if others else ""
        lines.append(f"{split}: {images} images, {len(boxes)} boxes ({shown})")
    return lines


def fetch_images(
    server: Server,
    folder: Path,
    boxes: Boxes,
    *,
    workers: int,
    progress: Callable[..., Iterable],
) -> dict[str, str]:
    """Fetch the images of some boxes that are not there yet; return {id: why} of failures."""
    ids = list(dict.fromkeys(box.image_id for box in boxes))
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(lambda i: _fetch_image(server, folder, i), ids)
        reasons = dict(zip(ids, progress(results, total=len(ids)), strict=True))
    return {image_id: reason for image_id, reason in reasons.items() if reason}


def _fetch_image(server: Server, folder: Path, image_id: str) -> str | None:
    """None when the image is there, otherwise why it is not."""
    path = folder / f"{image_id}.jpg"
    url = f"{server.images}/{folder.name}/{image_id}.jpg"
    if not _IMAGE_ID.fullmatch(image_id):
        return f"{image_id!r}: not an image id"
    was_there = path.is_file()
    try:
        server.fetch(url, path, most_bytes=_MOST_OF_IMAGE)
        image_size(path)
    except DownloadError as error:
        return str(error)
    except ValueError as error:
        if not was_there:
            path.unlink()  # an answer that is no image
        return f"{url}: {error}"
    return None


def write_subset(path: Path, boxes: Boxes, *, without: dict[str, str]) -> None:
    """Write the boxes of the images that are there, with the classes' names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for box in boxes:
        if box.image_id not in without:
            left, top, right, bottom = box.corners
            flags = (int(box.is_group), int(box.is_depiction))
            writer.writerow((box.image_id, box.name, left, right, top, bottom, *flags))
    write_atomically(path, text.getvalue().encode())
