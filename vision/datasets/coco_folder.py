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
    image_folder = image_folder_of(annotation_file)
    if image_folder is None:
        folders = _and(_folders_of(annotation_file))
        raise ValueError(f"{root}: no images of split {split!r}; looked for {folders}")
    return annotation_file, image_folder


def image_folder_of(annotation_file: Path) -> Path | None:
    """The folder that the file names in annotations/instances_<split>.json are relative to."""
    root = annotation_file.parent.parent
    paths = [root / name for name in _folders_of(annotation_file)]
    return next((path for path in paths if path.is_dir()), None)


def _folders_of(annotation_file: Path) -> list[str]:
    name = annotation_file.stem.removeprefix("instances_")
    split = split_of(name)
    # Beside instances_valid.json the images are in valid/, if that is there.
    own = [] if name in _plain_names(split) else [name, f"images/{name}"]
    return [*own, *_folder_names(split)]


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
