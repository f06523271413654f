"""Where a data set in COCO's layout keeps the annotations and the images of a split."""

import os
from pathlib import Path


def split_files(root: str | os.PathLike, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, 2017 names first.

    Raises:
        ValueError: one of them is absent; the message lists what was looked for.
    """
    if not Path(root).is_dir():
        raise ValueError(f"{root}: no such data set folder")
    annotation_file, image_folder = (
        find_annotation_file(root, split),
        find_image_folder(root, split),
    )
    if annotation_file is None:
        others = sorted(path.name for path in Path(root, "annotations").glob("*.json"))
        raise ValueError(
            f"{root}: no annotations of split {split!r}; looked for {_or(_file_names(split))}"
            + (f"; annotations/ has {', '.join(others[:5])}" if others else "")
        )
    if image_folder is None:
        raise ValueError(
            f"{root}: no images of split {split!r}; looked for {_or(_folder_names(split))}"
        )
    return annotation_file, image_folder


def find_annotation_file(root: str | os.PathLike, split: str) -> Path | None:
    """The annotation file of a split, if the data set has one."""
    paths = [Path(root, name) for name in _file_names(split)]
    return next((path for path in paths if path.is_file()), None)


def annotated_splits(root: str | os.PathLike) -> list[str]:
    """The splits that have an annotation file."""
    names = (path.stem for path in sorted(Path(root, "annotations").glob("instances_*.json")))
    splits = (name.removeprefix("instances_").removesuffix("2017") for name in names)
    # instances_train.original.json is what fix_coco_annotations.py keeps
    return list(dict.fromkeys(split for split in splits if "." not in split))


def find_image_folder(root: str | os.PathLike, split: str) -> Path | None:
    """The folder that the file names of a split are relative to, if the data set has one."""
    paths = [Path(root, name) for name in _folder_names(split)]
    return next((path for path in paths if path.is_dir()), None)


def _file_names(split: str) -> list[str]:
    return [f"annotations/instances_{split}2017.json", f"annotations/instances_{split}.json"]


def _folder_names(split: str) -> list[str]:
    return [f"{split}2017", split, f"images/{split}2017", f"images/{split}", "images"]


def _or(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
