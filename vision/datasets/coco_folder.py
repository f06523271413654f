"""Where a data set in COCO's layout keeps the annotations and the images of a split."""

import os
from pathlib import Path

from vision.datasets.split_names import SPLITS, spellings, split_of


def split_files(root: str | os.PathLike, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, 2017 names first.

    Raises:
        ValueError: one of them is absent; the message lists what was looked for.
    """
    if not Path(root).is_dir():
        raise ValueError(f"{root}: no such data set folder")
    annotation_file = find_annotation_file(root, split)
    if annotation_file is None:
        looked_for = [f"annotations/instances_{name}.json" for name in _plain_names(split)]
        others = sorted(path.name for path in Path(root, "annotations").glob("*.json"))
        raise ValueError(
            f"{root}: no annotations of split {split!r}; looked for {_and(looked_for)}"
            + (f"; annotations/ has {', '.join(others[:5])}" if others else "")
        )
    name = annotation_file.stem.removeprefix("instances_")
    # Beside instances_valid.json the images are in valid/, if that is there.
    folders = [] if name in _plain_names(split) else [name, f"images/{name}"]
    folders += _folder_names(split)
    image_folder = next((Path(root, name) for name in folders if Path(root, name).is_dir()), None)
    if image_folder is None:
        raise ValueError(f"{root}: no images of split {split!r}; looked for {_and(folders)}")
    return annotation_file, image_folder


def find_annotation_file(root: str | os.PathLike, split: str) -> Path | None:
    """The annotation file of a split, if the data set has one."""
    names = dict.fromkeys([*_plain_names(split), *spellings(split)])
    paths = [Path(root, f"annotations/instances_{name}.json") for name in names]
    return next((path for path in paths if path.is_file()), None)


def annotated_splits(root: str | os.PathLike) -> list[str]:
    """The splits that have an annotation file; those of usual names first."""
    files = sorted(Path(root, "annotations").glob("instances_*.json"))
    names = [file.stem.removeprefix("instances_") for file in files]
    # instances_train.original.json is what fix_coco_annotations.py keeps
    found = {split_of(name) for name in names if "." not in name}
    return [split for split in SPLITS if split in found] + sorted(found.difference(SPLITS))


def find_image_folder(root: str | os.PathLike, split: str) -> Path | None:
    """The folder that the file names of a split are relative to, if the data set has one."""
    paths = [Path(root, name) for name in _folder_names(split)]
    return next((path for path in paths if path.is_dir()), None)


def _plain_names(split: str) -> list[str]:
    return [f"{split}2017", split]


def _folder_names(split: str) -> list[str]:
    return [f"{split}2017", split, f"images/{split}2017", f"images/{split}", "images"]


def _and(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
