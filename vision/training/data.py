"""The data of a run: the train and val splits, what they hold, and whether they fit the run."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from vision.datasets.annotation_index import AnnotationIndex, Category
from vision.datasets.choose_images import balanced, shared_images
from vision.datasets.class_names import tidy_name
from vision.datasets.coco import CocoDetection, TiledImages
from vision.datasets.join_classes import joined_names, source_with_classes
from vision.datasets.layouts.choose import check_options_used, open_folder
from vision.datasets.layouts.coco import CocoLayout, Pair, open_pair
from vision.datasets.layouts.layout import NO_OPTIONS, OpenOptions, Source
from vision.datasets.loader import DetectionLoader
from vision.engine import distributed
from vision.ops.tiles import num_views
from vision.transforms.presets import build_eval_transform

logger = logging.getLogger(__name__)


@dataclass
class DataSplit:
    """One split of all data sets of a run, which have the same classes; maybe of none.

    Attributes:
        name: train or val.
        sources: of each data set.
        indices: the images and boxes of each.
        categories: the classes of labels 1..C; none without a source.
        class_names: their names.
    """

    name: str
    sources: list[Source]
    indices: list[AnnotationIndex] = field(init=False)
    categories: list[Category] = field(init=False)
    class_names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.indices = [index for index, _ in self.sources]
        self.categories = self.indices[0].categories if self.indices else []
        self.class_names = [category.name for category in self.categories]

    def __len__(self) -> int:
        """The number of images."""
        return sum(map(len, self.indices))

    def describe(self) -> list[str]:
        """Say in a few lines what the split holds and what was left out of it."""
        if not self.sources:
            return [f"no {self.name} split: no AP, no best"]
        indices = self.indices
        lines = []
        for index in indices:
            if index.accepted:
                lines.append(_describe_accepted(index))
            if any(map(len, index.rejected.values())):
                lines.append(_describe_rejected(index))
            if len(index.clipped_ids):
                lines.append(_describe_clipped(index))
            lines += [f"{index.annotation_file}: {doubt}" for doubt in index.doubts]
        boxes = sum(int(index.trainable.sum()) for index in indices)
        empty = sum(index.num_empty_images() for index in indices)
        crowds = sum(int(index.iscrowd.sum()) for index in indices)
        return [
            f"{self.name}: {len(self)} images, {boxes} boxes, {empty} images without, "
            f"{crowds} crowds",
            *lines,
            *self._describe_classes(),
        ]

    def _describe_classes(self) -> list[str]:
        per_class = np.sum([index.boxes_per_class() for index in self.indices], axis=0)
        names = self.class_names
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
    """What a run trains on, and what it is validated on; `val` may be empty.

    Attributes:
        val_flags: for each source of `val`, what eval_ssd.py needs to read it.
        val_place: the files or folders of `val`, for messages.
    """

    train: DataSplit
    val: DataSplit
    val_flags: list[list[str]]
    val_place: str


def open_sources(
    datasets: Sequence[str] = (),
    *,
    layout: str = "auto",
    validation_dataset: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    train_pairs: Sequence[Pair] = (),
    val_pairs: Sequence[Pair] = (),
    options: OpenOptions = NO_OPTIONS,
    balance_seed: int | None = None,
) -> TrainingData:
    """Read the annotations of the train and val splits, and log what they hold.

    Data sets of different classes are joined by the classes' names: a class that one of them does
    not have is neither an object nor background in its images.

    Args:
        datasets: folders that each have a train split, and maybe a val split.
        layout: of the folders, one of DATASET_TYPES.
        validation_dataset: the folder of the val split, instead of `datasets`.
        train_split, val_split: YOLO: files of image paths, instead of the folders' own.
        train_pairs, val_pairs: COCO annotation files with their image folders, besides `datasets`;
            with `val_pairs` the val splits of `datasets` are not used.
        options: how to read them, the split files aside.
        balance_seed: train on as many images of each class as the rarest has, chosen by this seed.

    Raises:
        OSError: a file cannot be read.
        ValueError: no train split, nothing to learn in it, or an option that means nothing here.
    """
    train, val, val_flags, used = [], [], [], set()
    for pairs, sources in ((train_pairs, train), (val_pairs, val)):
        for annotation_file, image_folder in pairs:
            sources.append(open_pair(annotation_file, image_folder, options=options))
            used |= CocoLayout.takes
    for annotation_file, image_folder in val_pairs:
        flags = ["--val-json", annotation_file, "--val-images", image_folder]
        val_flags.append(flags + options.only(CocoLayout.takes).words())
    lists = {"train": train_split, "val": None if validation_dataset else val_split}
    with_lists = replace(options, split_files={k: file for k, file in lists.items() if file})
    folders = [
        open_folder(root, split="train", layout=layout, options=with_lists) for root in datasets
    ]
    train += [folder.open("train") for folder in folders]
    val_folders = [] if val_pairs else folders
    if validation_dataset:
        val_options = replace(options, split_files={"val": val_split} if val_split else {})
        val_folders = [
            open_folder(validation_dataset, split="val", layout=layout, options=val_options)
        ]
    for folder in val_folders:
        if "val" not in folder.splits and not validation_dataset:
            logger.warning("%s: no val split; it has %s", folder.root, ", ".join(folder.splits))
            continue
        val.append(folder.open("val"))
        flags = ["--dataset", str(folder.root), *folder.options.words()]
        flags += [] if layout == "auto" else ["--dataset-type", layout]
        val_flags.append(flags + (["--val-split", val_split] if val_split else []))
    used = used.union(*(folder.takes for folder in [*folders, *val_folders]))
    check_options_used(with_lists, used, where=" ".join(map(str, datasets)))
    val_place = " and ".join(str(place) for _, place, *_ in val_flags)  # behind its flag
    return TrainingData(*_joined(train, val, balance_seed=balance_seed), val_flags, val_place)


def _joined(
    train: list[Source], val: list[Source], *, balance_seed: int | None
) -> tuple[DataSplit, DataSplit]:
    """Give all sources the same classes, and log what the splits hold."""
    names = joined_names([source.index for source in train])
    for index, _ in val:
        unlearned = [c.name for c in index.categories if c.name not in names]
        if unlearned:
            raise ValueError(
                f"{index.annotation_file}: has the classes {', '.join(unlearned[:5])}, which no "
                f"training data have ({', '.join(names[:10])}); rename them, or remove them there"
            )
    train = [source_with_classes(source, names) for source in train]
    val = [source_with_classes(source, names) for source in val]
    if balance_seed is not None:
        train = balanced(train, seed=balance_seed)
    splits = DataSplit("train", train), DataSplit("val", val)
    for split in splits:
        for line in split.describe():
            logger.info(line)
    if not any((index.trainable & ~index.iscrowd).any() for index in splits[0].indices):
        files = ", ".join(index.annotation_file for index in splits[0].indices)
        raise ValueError(f"{files}: no box to train on, crowds aside; is it the right file?")
    shared = shared_images(train, val)
    if shared:
        logger.warning(
            "%d images are in train and in val both (first %s): the val numbers are too good; "
            "split_dataset.py makes lists without", len(shared), shared[0],
        )  # fmt: skip
    return splits


def _describe_accepted(index: AnnotationIndex) -> str:
    """What a file lacks and what stands for it, by kind."""
    kinds = ", ".join(f"{count} {what}" for what, count in index.accepted.items())
    return f"{index.annotation_file}: {kinds}; fix_coco_annotations.py writes them in"


def _describe_rejected(index: AnnotationIndex) -> str:
    """The boxes of a file that training leaves out, by reason."""
    reasons = [
        f"{len(image_ids)} {reason} (first in image {image_ids[0]})"
        for reason, image_ids in index.rejected.items()
        if len(image_ids)
    ]
    return (
        f"{index.annotation_file}: boxes left out: {', '.join(reasons)}; correct them there if "
        "they are meant to count"
    )


def _describe_clipped(index: AnnotationIndex) -> str:
    """How many boxes reach outside their images."""
    count = len(index.clipped_ids)
    share = 100 * count / max(1, len(index.labels))
    return (
        f"{index.annotation_file}: {count} boxes ({share:.2g} %) reach outside their images by "
        f"more than a pixel and are clipped (first in image {index.clipped_ids[0]})"
    )


def evaluation_loader(
    sources: list[Source],
    *,
    image_size: tuple[int, int],
    resize: str,
    tiles: int,
    batch_size: int,
    num_workers: int,
    image_indices: np.ndarray | None = None,
) -> DetectionLoader:
    """Return the batches of this process's part of some images, as evaluation looks at them.

    Args:
        sources: the images.
        image_size: input (height, width).
        resize: of images to it, one of RESIZES.
        tiles: along each side; a batch then has all views of an image or none.
        batch_size: images, or views of them, in a batch.
        num_workers: processes that load them.
        image_indices: the images to use, counted over all sources; None: all.
    """
    transform = build_eval_transform(image_size, resize=resize)
    if tiles == 1:
        dataset = CocoDetection(sources, transform=transform, image_indices=image_indices)
    else:
        dataset = TiledImages(
            sources, transform=transform, image_indices=image_indices, tiles=tiles
        )
    return DetectionLoader(
        dataset,
        batch_size=max(1, batch_size // num_views(tiles)),
        num_workers=num_workers,
        shuffle=False,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def check_classes(expected: list[dict], categories: list[Category], *, where: str) -> None:
    """Refuse data of other classes than the run's, or in another order.

    Raises:
        ValueError: names the first difference.
    """
    old = [tidy_name(item["name"], label) for label, item in enumerate(expected, 1)]
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


def check_same_for_all(splits: Sequence[DataSplit], model: nn.Module | None = None) -> None:
    """Compare what all processes have read, which may be from different disks.

    Args:
        splits: their images and boxes; the first has classes.
        model: with weights that each process has read; None where the main process's count.

    Raises:
        ValueError: in the main process; names the other process, and what it has.
        MainProcessStopped: in the others.
    """
    facts: dict = {"classes": splits[0].class_names}
    if model is not None:
        digest = hashlib.sha256()
        for tensor in model.state_dict().values():
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        facts["weights"] = digest.hexdigest()
    facts |= {split.name: split.fingerprint() for split in splits}
    _refuse_differences(distributed.gather(facts))


@distributed.on_main_process
def _refuse_differences(of_processes: list[dict]) -> None:
    own, *others = of_processes
    for number, facts in enumerate(others, start=1):
        for name, theirs in facts.items():
            if theirs != own[name]:
                raise ValueError(
                    f"process {number} has read other data than process 0, {name}: "
                    f"{_in_short(theirs)} instead of {_in_short(own[name])}; give all processes "
                    "the same files"
                )


def _in_short(facts: dict | list | str) -> str:
    if isinstance(facts, str):
        return f"SHA-256 {facts[:8]}"
    if isinstance(facts, list):
        return f"{len(facts)} ({', '.join(facts[:5])})"
    return f"{facts['images']} images, {facts['boxes']} boxes ({_in_short(facts['sha256'])})"
