"""The data of a run: the train and val splits, what they hold, and whether they fit the run."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, Category
from vision.datasets.coco import CocoDetection, check_same_categories
from vision.datasets.layouts.choose import open_folder, open_split
from vision.datasets.layouts.layout import OpenOptions, Source
from vision.datasets.loader import DetectionLoader
from vision.engine import distributed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSplit:
    """One split of all data sets of a run, which have the same classes; maybe of none."""

    name: str
    sources: list[Source]

    def __len__(self) -> int:
        """The number of images."""
        return sum(map(len, self.indices))

    @property
    def indices(self) -> list[AnnotationIndex]:
        return [index for index, _ in self.sources]

    @property
    def categories(self) -> list[Category]:
        return self.sources[0].index.categories

    @property
    def class_names(self) -> list[str]:
        return [category.name for category in self.categories]

    def describe(self) -> list[str]:
        """Say in a few lines what the split holds and what was left out of it."""
        if not self.sources:
            return [f"no {self.name} split: no AP, no best"]
        indices = self.indices
        boxes = sum(int(index.trainable.sum()) for index in indices)
        empty = sum(index.num_empty_images() for index in indices)
        crowds = sum(int(index.iscrowd.sum()) for index in indices)
        return [
            f"{self.name}: {len(self)} images, {boxes} boxes, {empty} images without, "
            f"{crowds} crowds",
            *filter(None, map(_describe_accepted, indices)),
            *filter(None, map(_describe_rejected, indices)),
            *self._describe_classes(),
        ]

    def _describe_classes(self) -> list[str]:
        per_class = np.sum([index.boxes_per_class() for index in self.indices], axis=0)
        names = [category.name for category in self.categories]
        absent = [name for name, count in zip(names, per_class, strict=True) if count == 0]
        if absent:
            shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            return [f"{self.name}: no box of {len(absent)} of {len(names)} classes: {shown}"]
        if len(names) > 20:
            return []
        pairs = zip(names, per_class, strict=True)
        return [f"{self.name}: " + ", ".join(f"{name} {count}" for name, count in pairs)]

    def fingerprint(self) -> dict:
        """Return what tells one set of images and boxes from another, wherever it lies.

        Pixels are not looked at, and category ids do not count: only the order of the classes does.
        """
        digest = hashlib.sha256()
        for index in self.indices:
            digest.update(index.name_bytes)
            boxes = (index.clipped_boxes, index.labels, index.iscrowd, index.trainable)
            for array in (index.name_offsets, index.sizes, index.box_offsets, *boxes):
                digest.update(np.ascontiguousarray(array))
        return {
            "images": len(self),
            "boxes": sum(int(index.trainable.sum()) for index in self.indices),
            "sha256": digest.hexdigest(),
        }

    def images_with_boxes(self, count: int) -> np.ndarray:
        """Return the positions of the first `count` images that have a box, over all sources."""
        positions, start = [], 0
        for index in self.indices:
            before = np.concatenate([[0], np.cumsum(index.trainable & ~index.iscrowd)])
            has_boxes = np.diff(before[index.box_offsets]) > 0
            positions.append(start + np.flatnonzero(has_boxes))
            start += len(index)
        return np.concatenate(positions)[:count]


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on, and what it is validated on; `val` may be empty."""

    train: DataSplit
    val: DataSplit

    @property
    def class_names(self) -> list[str]:
        """Those of labels 1..C."""
        return self.train.class_names


def open_sources(
    datasets: list[str],
    *,
    layout: str = "auto",
    validation_dataset: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    strict_labels: bool = False,
) -> TrainingData:
    """Read the annotations of the train and val splits, and log what they hold.

    Args:
        datasets: folders that each have a train split, and maybe a val split.
        layout: of the folders, one of DATASET_TYPES.
        validation_dataset: the folder of the val split, instead of `datasets`.
        train_split, val_split: YOLO: files of image paths, instead of the folders' own.
        strict_labels: YOLO: a bad label line is an error.

    Raises:
        OSError: a file cannot be read.
        ValueError: no train split, nothing to learn in it, or data sets of different classes.
    """
    train_sources, val_sources = [], []
    lists = {"train": train_split, "val": None if validation_dataset else val_split}
    options = OpenOptions({name: file for name, file in lists.items() if file}, strict_labels)
    for root in datasets:
        folder = open_folder(root, split="train", layout=layout, options=options)
        train_sources.append(folder.open("train"))
        if validation_dataset:
            continue
        if "val" in folder.splits:
            val_sources.append(folder.open("val"))
        else:
            logger.warning("%s: no val split; it has %s", root, ", ".join(folder.splits))
    if validation_dataset:
        options = OpenOptions({"val": val_split} if val_split else {}, strict_labels)
        source = open_split(validation_dataset, "val", layout=layout, options=options)
        val_sources.append(source)
    train, val = DataSplit("train", train_sources), DataSplit("val", val_sources)
    check_same_categories([*train.indices, *val.indices])
    for line in [*train.describe(), *val.describe()]:
        logger.info(line)
    if not any(index.trainable.any() for index in train.indices):
        files = ", ".join(index.annotation_file for index in train.indices)
        raise ValueError(f"{files}: no box to train on; is it the right file?")
    return TrainingData(train, val)


def _describe_accepted(index: AnnotationIndex) -> str:
    """What a file lacks and what stands for it, by kind; empty where it lacks nothing."""
    if not index.accepted:
        return ""
    kinds = ", ".join(f"{count} {what}" for what, count in index.accepted.items())
    return f"{index.annotation_file}: {kinds}; fix_coco_annotations.py writes them in"


def _describe_rejected(index: AnnotationIndex) -> str:
    """The boxes of a file that training leaves out, by reason; empty where there are none."""
    reasons = [
        f"{len(image_ids)} {reason} (first in image {image_ids[0]})"
        for reason, image_ids in index.rejected.items()
        if len(image_ids)
    ]
    if not reasons:
        return ""
    return (
        f"{index.annotation_file}: boxes left out: {', '.join(reasons)}; correct them there if "
        "they are meant to count"
    )


def shared_loader(dataset: CocoDetection, **options) -> DetectionLoader:
    """Return a DetectionLoader of this process's part; `options` as it takes them."""
    return DetectionLoader(
        dataset, rank=distributed.rank(), world_size=distributed.world_size(), **options
    )


def check_classes(expected: list[dict], categories: list[Category], *, where: str) -> None:
    """Refuse data of other classes than the run's, or in another order.

    Raises:
        ValueError: names the first difference.
    """
    old = [item["name"] for item in expected]
    new = [category.name for category in categories]
    if old == new:
        return
    missing = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    if missing or added:
        difference = f"without {missing or 'none'}, with {added or 'none'} besides"
    else:
        difference = f"in another order: {new} instead of {old}"
    raise ValueError(
        f"{where}: its classes are not the run's: {difference}; start a new run from these weights "
        "with --pretrained-ssd"
    )
