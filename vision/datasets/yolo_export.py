"""Writing converted YOLO splits as a COCO-style data set root, without copying an image."""

import os
from collections.abc import Mapping
from itertools import count, repeat
from pathlib import Path

import msgspec

from vision.datasets.coco_folder import find_image_folder
from vision.datasets.coco_tables import without_garbage_collection
from vision.datasets.findings import Findings
from vision.datasets.yolo import YoloSplit
from vision.files.atomic_file import write_atomically

# Written into `info`, by which the converter knows its own files.
DESCRIPTION = "converted from YOLO labels"


class Image(msgspec.Struct, gc=False):
    """One entry of `images`."""

    id: int
    file_name: str
    height: int
    width: int


class Annotation(msgspec.Struct, gc=False):
    """One entry of `annotations`."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class Coco(msgspec.Struct):
    """A COCO file; entries are structs, of which msgspec makes and writes a million a second."""

    info: dict[str, str]
    images: list[Image]
    annotations: list[Annotation]
    categories: list[dict]


class _Info(msgspec.Struct):
    description: str = ""


class _AnnotationFile(msgspec.Struct):
    """The only part of an annotation file that is looked at before it is replaced."""

    info: _Info = msgspec.field(default_factory=_Info)


def write_coco_root(splits: Mapping[str, YoloSplit], root: Path) -> dict[str, Path]:
    """Write annotations/instances_<split>.json below `root`.

    Where `root` does not hold the images of a split, it gets a link <split> to their folder.

    Returns:
        {split: annotation file}.

    Raises:
        OSError: a file or link cannot be written.
        ValueError: `root` has other images or other annotations of that split; nothing is
            written then.
    """
    files = {split: _annotation_file(root, split) for split in splits}
    links = [
        (root / split, data.image_folder)
        for split, data in splits.items()
        if _needs_link(root, split, data.image_folder)
    ]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for link, image_folder in links:
        _link(link, image_folder)
    for split, file in files.items():
        write_atomically(file, msgspec.json.encode(coco_of(splits[split])) + b"\n")
    return files


def coco_of(split: YoloSplit) -> Coco:
    """The COCO content of a split: ids of images and annotations from 1, of categories plus 1."""
    heights, widths = split.sizes.T.tolist()
    xywh = split.boxes.boxes_xywh
    with without_garbage_collection():
        return Coco(
            info={"description": DESCRIPTION},
            images=list(map(Image, count(1), split.names, heights, widths)),
            annotations=list(
                map(
                    Annotation,
                    count(1),
                    (split.boxes.image_indices + 1).tolist(),
                    (split.boxes.class_ids + 1).tolist(),
                    xywh.tolist(),
                    (xywh[:, 2] * xywh[:, 3]).tolist(),
                    repeat(0),
                )
            ),
            categories=[{"id": number + 1, "name": name} for number, name in split.classes.items()],
        )


def write_report(splits: Mapping[str, YoloSplit], findings: Findings, file: Path) -> None:
    """Write what was converted and every finding as JSON."""
    report = {
        "splits": {
            split: {
                "images_listed": data.num_listed,
                "images": len(data.names),
                "images_without_label_file": data.num_without_label_file,
                "annotations": len(data.boxes),
            }
            for split, data in splits.items()
        },
        "findings": findings.as_report(),
    }
    write_atomically(file, msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _annotation_file(root: Path, split: str) -> Path:
    """The file to write, which must be absent or of an earlier conversion."""
    annotations = root / "annotations"
    file = annotations / f"instances_{split}.json"
    preferred = annotations / f"instances_{split}2017.json"
    if preferred.exists():
        raise ValueError(
            f"{preferred}: would be read instead of {file.name}; rename it or use --output"
        )
    if file.exists() and not _is_converted(file):
        raise ValueError(
            f"{file}: exists and was not converted from YOLO labels; rename it or use --output"
        )
    return file


def _is_converted(file: Path) -> bool:
    begin = msgspec.json.encode({"info": _Info(DESCRIPTION)})[:-1]
    with open(file, "rb") as stream:
        if stream.read(len(begin)) == begin:  # as it was written; else someone edited it
            return True
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_AnnotationFile)
    except msgspec.DecodeError:
        return False
    return content.info.description == DESCRIPTION


def _needs_link(root: Path, split: str, image_folder: Path) -> bool:
    found = find_image_folder(root, split)
    if found is None:
        return True
    if os.path.samefile(found, image_folder):
        return False
    raise ValueError(
        f"{found}: would be taken for the images of split {split}, which are in "
        f"{image_folder}; use --output with a new folder"
    )


def _link(link: Path, image_folder: Path) -> None:
    target, root = image_folder.resolve(), link.parent.resolve()
    if target.is_relative_to(root):
        target = target.relative_to(root)  # holds when the whole folder moves
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise OSError(
            f"{link}: cannot link to {image_folder} ({error.strerror}); make the link by hand, "
            "or use an --output folder on a file system that has links"
        ) from None
