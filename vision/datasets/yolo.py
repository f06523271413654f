"""The images and boxes of a YOLO folder as arrays, split by split."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from vision.datasets.coco_folder import find_image_folder
from vision.datasets.findings import Findings, no_progress
from vision.datasets.yolo_files import LabelledImages, read_labelled_images
from vision.datasets.yolo_folder import YoloFolder, find_yolo_folder, label_candidates, names_below
from vision.datasets.yolo_labels import LabelBoxes, LabelParser

UNREADABLE = "unreadable image"  # the kind of a finding


@dataclass
class YoloSplit:
    """The images of one split, and the boxes of their valid label rows."""

    classes: dict[int, str]
    image_folder: Path
    names: list[str]  # of the I images, relative to `image_folder`, with slashes
    sizes: np.ndarray  # int64 [I, 2], (height, width), upright
    boxes: LabelBoxes
    num_listed: int  # images that the split names; the train split may keep fewer
    num_without_label_file: int


def read_yolo(
    root: str | Path,
    *,
    split_files: Mapping[str, str | Path] | None = None,
    class_file: str | Path | None = None,
    strict_labels: bool = False,
    has_confidence: bool = False,
    label_format: str = "auto",
    skip_unreadable: bool = False,
    findings: Findings | None = None,
    progress: Callable[..., Iterable] = no_progress,
) -> dict[str, YoloSplit]:
    """Read all splits of a YOLO folder.

    Args:
        root: the folder, or its data.yaml; `find_yolo_folder` says how splits, class names and
            labels are found.
        split_files: {split: file of image paths}, added to those found, or instead of them.
        class_file: a file with one class name a line.
        strict_labels, has_confidence, label_format, skip_unreadable, findings, progress: as
            `YoloReader` takes them.

    Raises:
        OSError, ValueError: as `find_yolo_folder` and `YoloReader.read` do.
    """
    findings = Findings() if findings is None else findings
    reader = YoloReader(
        find_yolo_folder(root, split_files=split_files, class_file=class_file, findings=findings),
        strict_labels=strict_labels,
        has_confidence=has_confidence,
        label_format=label_format,
        skip_unreadable=skip_unreadable,
        findings=findings,
    )
    return {split: reader.read(split, progress=progress) for split in reader.folder.splits}


class YoloReader:
    """Reads the labels of a YOLO folder, one split after the other.

    Boxes are clipped to the image; rows that are malformed, not finite, of an unknown class or
    without area are left out. The train split drops images without a valid row; the others keep
    every image.

    Args:
        folder: where everything lies.
        strict_labels: a malformed row or an unknown class is an error.
        has_confidence: rows may end with a confidence, which is ignored.
        label_format: what a row holds, one of LABEL_FORMATS; with "auto" they are key points where
            data.yaml has a kpt_shape.
        skip_unreadable: leave out images that cannot be read, and note them; without it they are
            an error.
        findings: collects what was wrong, by kind.
    """

    def __init__(
        self,
        folder: YoloFolder,
        *,
        strict_labels: bool = False,
        has_confidence: bool = False,
        label_format: str = "auto",
        skip_unreadable: bool = False,
        findings: Findings | None = None,
    ) -> None:
        self.folder = folder
        self.findings = Findings() if findings is None else findings
        self._strict = strict_labels
        self._has_confidence = has_confidence
        is_pose = label_format == "auto" and folder.has_key_points
        self._format = "pose" if is_pose else label_format
        self._skip_unreadable = skip_unreadable
        self._owners: dict[str, str] = {}  # the image of each label file, over all splits
        _warn_of_shared_images(folder, self.findings)

    def read(self, split: str, *, progress: Callable[..., Iterable] = no_progress) -> YoloSplit:
        """Read the image sizes and label rows of a split.

        Args:
            split: one of `folder.splits`.
            progress: wraps the iteration over the images, called with `total=`, as tqdm does.

        Raises:
            OSError: a file cannot be read.
            ValueError: two images share a label file, an image is not readable, or the labels are
                not strictly valid; file, line and remedy are named.
        """
        root, listed = self.folder.root, self.folder.splits[split]
        images = _without_repetitions(split, listed, self.findings)
        parser = LabelParser(
            self.findings,
            strict=self._strict,
            has_confidence=self._has_confidence,
            label_format=self._format,
        )
        blocks: list[LabelledImages] = []
        for _ in progress(self._read_into(parser, images, blocks), total=len(images)):
            pass
        sizes = np.concatenate([block.sizes for block in blocks])
        boxes = parser.boxes(sizes, self.folder.classes)
        num_without = sum(block.num_without for block in blocks)
        if num_without == len(images):
            self._note_no_label_files(split, images)
        elif parser.num_rows and not len(boxes):
            raise ValueError(
                f"{root}: split {split}: none of the {parser.num_rows} rows of its label files is "
                f"a box that can be used (see above), the first in {parser.first_file}"
            )
        kept = self._readable(images, blocks)
        boxes = boxes.take(np.isin(boxes.image_indices, kept))
        if split == "train":
            kept = np.intersect1d(kept, _images_with_boxes(root, images, boxes, self.findings))
        image_folder, names = _relative_names(root, split, images)
        names, sizes = [names[image] for image in kept.tolist()], sizes[kept]
        boxes.image_indices = np.searchsorted(kept, boxes.image_indices)
        return YoloSplit(
            classes=self.folder.classes,
            image_folder=image_folder,
            names=names,
            sizes=sizes,
            boxes=boxes,
            num_listed=len(listed),
            num_without_label_file=num_without,
        )

    def _readable(self, images: list[str], blocks: list[LabelledImages]) -> np.ndarray:
        """The positions of the images that can be read; the others are noted, or an error."""
        problems, start = {}, 0
        for block in blocks:
            problems |= {start + i: why for i, why in block.unreadable.items()}
            start += len(block.images)
        if problems and not self._skip_unreadable:
            more = f" ({len(problems)} such images)" if len(problems) > 1 else ""
            raise ValueError(next(iter(problems.values())) + more)
        for image, why in problems.items():
            self.findings.add(UNREADABLE, images[image], why)
        if len(problems) == len(images):
            raise ValueError(f"{self.folder.root}: none of the {len(images)} images can be read")
        return np.setdiff1d(np.arange(len(images)), list(problems))

    def _note_no_label_files(self, split: str, images: list[str]) -> None:
        places = " and ".join(label_candidates(self.folder.root, images[0]))
        message = f"split {split} has no label file; those of its first image would be {places}"
        self.findings.add("no label files", str(self.folder.root), message)

    def _read_into(
        self, parser: LabelParser, images: list[str], blocks: list[LabelledImages]
    ) -> Iterator[str]:
        """Read labels into `parser` and the rest into `blocks`, yielding each done."""
        for block in read_labelled_images(self.folder.root, images):
            for image, label_file in zip(block.images, block.label_files, strict=True):
                if (owner := self._owners.setdefault(label_file, image)) != image:
                    raise ValueError(
                        f"{image}: has the same label file as {owner} ({label_file}); rename one "
                        "of the images together with its labels"
                    )
            parser.add(block.label_files, block.rows)
            blocks.append(block)
            yield from block.images


def _without_repetitions(split: str, images: list[str], findings: Findings) -> list[str]:
    unique = dict.fromkeys(images)
    if len(unique) < len(images):
        for image, count in Counter(images).items():
            if count > 1:
                findings.add("listed twice", image, f"{count} times in split {split}; used once")
    return list(unique)


def _warn_of_shared_images(folder: YoloFolder, findings: Findings) -> None:
    """An image in two splits makes the validation figures too good."""
    for (first, images), (second, others) in combinations(folder.splits.items(), 2):
        for image in sorted(set(images).intersection(others)):
            findings.add("in two splits", image, f"is in split {first} and in split {second}")


def _images_with_boxes(
    root: Path, images: list[str], boxes: LabelBoxes, findings: Findings
) -> np.ndarray:
    """Indices of the images that have a valid row; ValueError where none has."""
    has_box = np.zeros(len(images), dtype=bool)
    has_box[boxes.image_indices] = True
    if not has_box.any():
        place = next(label_candidates(root, images[0]))
        raise ValueError(
            f"{root}: no image of the train split has a valid label row; the labels of "
            f"{images[0]} were looked for in {place}"
        )
    for index in np.flatnonzero(~has_box):
        findings.add("without labels", images[index], "no valid label row; left out of train")
    return np.flatnonzero(has_box)


def _relative_names(root: Path, split: str, images: list[str]) -> tuple[Path, list[str]]:
    """The folder to name the images from: the split's by the data set rule, if it has them all."""
    folder = find_image_folder(root, split)
    if folder is not None:
        with suppress(ValueError):
            return folder, names_below(folder, images)
    images = [os.path.abspath(image) for image in images]
    folder = Path(os.path.commonpath([os.path.dirname(image) for image in images]))
    return folder, names_below(folder, images)
