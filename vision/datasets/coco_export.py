"""Writing any split as a COCO file, and splits as a COCO-style root, without copying an image."""

import logging
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from vision.datasets.annotation_index import AnnotationIndex
from vision.datasets.coco_folder import find_image_folder
from vision.datasets.coco_tables import without_garbage_collection
from vision.files.atomic_file import write_atomically
from vision.files.guarded import linked_folder, read_regular, regular_only

logger = logging.getLogger(__name__)

# Written into `info`, by which the converters know their own files.
DESCRIPTION = "converted from YOLO labels"
CONVERTED = "converted by convert_to_coco.py"


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
    """What is read of `info`."""

    description: str = ""


class _AnnotationFile(msgspec.Struct):
    """The only part of an annotation file that is looked at before it is replaced."""

    info: _Info = msgspec.field(default_factory=_Info)


def write_coco_root(splits: Mapping[str, tuple[Coco, Path]], root: Path) -> dict[str, Path]:
    """Write annotations/instances_<split>.json below `root`.

    Args:
        splits: {split: its content, and the folder of its images}.
        root: folder to write to.

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
        (root / split, image_folder)
        for split, (_, image_folder) in splits.items()
        if _needs_link(root, split, image_folder)
    ]
    if target := linked_folder(root, "annotations/of.json"):
        logger.warning("%s: a link, so the files in %s are written", root / "annotations", target)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for link, image_folder in links:
        _link(link, image_folder)
    for split, file in files.items():
        write_coco(file, splits[split][0])
    return files


def write_coco(file: Path, content: Coco) -> None:
    """Write one annotation file."""
    write_atomically(file, msgspec.json.encode(content) + b"\n")


def coco_of_index(index: AnnotationIndex, *, description: str = CONVERTED) -> Coco:
    """The COCO content of an index: its images and category ids, annotations numbered from 1."""
    heights, widths = index.sizes.T.tolist()
    names = [index.file_name(row) for row in range(len(index))]
    image_ids = index.image_ids[index.images_of_boxes()]
    category_ids = np.array([0, *(category.category_id for category in index.categories)])
    with without_garbage_collection():
        return Coco(
            info={"description": description},
            images=list(map(Image, index.image_ids.tolist(), names, heights, widths)),
            annotations=list(
                map(
                    Annotation,
                    count(1),
                    image_ids.tolist(),
                    category_ids[index.labels].tolist(),
                    index.boxes_xywh.tolist(),
                    index.areas.tolist(),
                    index.iscrowd.astype(int).tolist(),
                )
            ),
            categories=[{"id": c.category_id, "name": c.name} for c in index.categories],
        )


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
            f"{file}: exists and was not converted by this toolkit; rename it or use --output"
        )
    return file


def _is_converted(file: Path) -> bool:
    begin = msgspec.json.encode({"info": _Info(DESCRIPTION)})[:-1]
    with open(file, "rb", opener=regular_only) as stream:
        if stream.read(len(begin)) == begin:  # as it was written; else someone edited it
            return True
    try:
        content = msgspec.json.decode(read_regular(file), type=_AnnotationFile)
    except (msgspec.DecodeError, RecursionError):
        return False
    return content.info.description in (DESCRIPTION, CONVERTED)


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
