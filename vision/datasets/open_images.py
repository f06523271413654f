"""The images and boxes of an Open Images folder as arrays, split by split."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, Category, build_index
from vision.datasets.image_headers import image_size
from vision.datasets.image_list import scan_images
from vision.datasets.open_images_csv import OpenImagesBox, read_boxes, read_class_names
from vision.datasets.progress import show_progress

logger = logging.getLogger(__name__)

# What a split is called there.
NAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_SUBSET = "sub-{}-annotations-bbox.csv"  # of the images that were downloaded
_OFFICIAL = ("{}-annotations-bbox.csv", "oidv6-{}-annotations-bbox.csv")
_CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")
_FOLDERS = ("", "annotations", "csv")
_NUM_THREADS = 8


@dataclass(frozen=True)
class OpenImagesSplit:
    """The files of one split."""

    csv: Path
    image_folder: Path
    is_subset: bool  # each image that it lists has been downloaded


def find_open_images(root: Path) -> dict[str, OpenImagesSplit]:
    """Find the splits: a CSV of boxes and a folder of images for each."""
    found = {}
    for split, names in NAMES.items():
        for name in names:
            folder = next((root / place for place in (name, f"images/{name}")
                           if (root / place).is_dir()), None)  # fmt: skip
            if folder is None or split in found:
                continue
            csv, is_subset = _csv_of(root, name)
            if csv:
                found[split] = OpenImagesSplit(csv, folder, is_subset)
    return found


def _csv_of(root: Path, name: str) -> tuple[Path | None, bool]:
    for pattern in (_SUBSET, *_OFFICIAL):
        for folder in _FOLDERS:
            for ending in ("", ".gz"):
                path = root / folder / (pattern.format(name) + ending)
                if path.is_file():
                    return path, pattern == _SUBSET
    return None, False


class OpenImagesReader:
    """Reads an Open Images folder; the classes are those of all splits' boxes, sorted.

    A box of a group of objects (IsGroupOf) is ignored, as COCO's crowds are. Of the official CSVs,
    which list 1.7 million images, those are taken that have been downloaded.

    Raises:
        OSError: a file cannot be read.
        ValueError: there is no split.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.splits = find_open_images(root)
        if not self.splits:
            raise ValueError(
                f"{root}: no split of Open Images; sub-train-annotations-bbox.csv and train/ with "
                "its images are needed"
            )
        place = (root / folder / name for folder in _FOLDERS for name in _CLASSES)
        file = next((path for path in place if path.is_file()), None)
        self._names = read_class_names(file) if file else None
        self._boxes: dict[str, list[OpenImagesBox]] = {}
        self._images: dict[str, dict[str, str]] = {}

    def read(self, split: str) -> tuple[AnnotationIndex, Path]:
        """Read a split; return its index and the folder of its images.

        Raises:
            OSError: a file cannot be read.
            ValueError: a row is malformed, or images of a subset's CSV are missing.
        """
        place = self.splits[split]
        names = sorted({box.name for each in self.splits for box in self._boxes_of(each)})
        if not names:
            raise ValueError(f"{place.csv}: lists no box of an image in {place.image_folder}")
        boxes, files = self._boxes_of(split), self._images[split]
        used = list(dict.fromkeys(box.image_id for box in boxes))
        num_without = len(files) - len(used)
        if num_without:
            logger.info(
                "%s: %d images of %s have no row in it and are negatives",
                place.csv, num_without, place.image_folder,
            )  # fmt: skip
        image_files = [*(files[i] for i in used), *(files[i] for i in files.keys() - set(used))]
        image_files[len(used) :] = sorted(image_files[len(used) :])
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            paths = [os.path.join(place.image_folder, name) for name in image_files]
            sizes = np.array(list(pool.map(image_size, paths))).reshape(-1, 2)
        return self._index(place, names, boxes, used, image_files, sizes), place.image_folder

    def _boxes_of(self, split: str) -> list[OpenImagesBox]:
        """The boxes of the images that are there; cached."""
        if split not in self._boxes:
            place = self.splits[split]
            prefix = len(os.path.join(place.image_folder, ""))
            paths = [path[prefix:] for path in scan_images(place.image_folder).images]
            files = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
            self._images[split] = files
            wanted = None if place.is_subset else files
            rows = read_boxes(place.csv, names=self._names, wanted=wanted)
            boxes = list(show_progress(rows, unit=" boxes"))
            _check_present(place, boxes, files)
            self._boxes[split] = boxes
        return self._boxes[split]

    def _index(
        self,
        place: OpenImagesSplit,
        names: list[str],
        boxes: list[OpenImagesBox],
        used: list[str],
        image_files: list[str],
        sizes: np.ndarray,
    ) -> AnnotationIndex:
        row_of = {image_id: row for row, image_id in enumerate(used)}
        label_of = {name: label for label, name in enumerate(names, 1)}
        rows = np.array([row_of[box.image_id] for box in boxes], dtype=np.int64)
        corners = np.array([box.corners for box in boxes], dtype=np.float64).reshape(-1, 4)
        if len(corners) and np.median(corners[:, 2:]) > 1:
            raise ValueError(
                f"{place.csv}: most boxes end beyond 1, so they are in pixels, where Open Images "
                "has fractions of the image; divide them by its width and height"
            )
        pixels = corners * sizes[rows][:, [1, 0, 1, 0]]
        pixels[:, 2:] -= pixels[:, :2]
        return build_index(
            str(place.csv),
            [Category(label, label, label, name) for name, label in label_of.items()],
            image_ids=np.arange(1, len(image_files) + 1),
            file_names=[name.replace(os.sep, "/") for name in image_files],
            sizes=sizes,
            rows=rows,
            labels=np.array([label_of[box.name] for box in boxes], dtype=np.int64),
            boxes_xywh=pixels,
            areas=pixels[:, 2] * pixels[:, 3],
            iscrowd=np.array([box.is_group for box in boxes], dtype=bool),
        )


def _check_present(
    place: OpenImagesSplit, boxes: list[OpenImagesBox], files: dict[str, str]
) -> None:
    absent = list(dict.fromkeys(box.image_id for box in boxes if box.image_id not in files))
    if absent:
        total = len({box.image_id for box in boxes})
        raise ValueError(
            f"{place.image_folder}: {len(absent)} of the {total} images of {place.csv} are "
            f"missing: {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}; run "
            "open_images_downloader.py again, or remove their rows"
        )
