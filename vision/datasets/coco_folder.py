"""Where a data set in COCO's layout keeps the annotations and the images of a split.

As COCO itself has it, and as CVAT, Roboflow, Label Studio and FiftyOne export it.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vision.datasets.folder_contents import contents_of
from vision.datasets.image_list import scan_images
from vision.datasets.split_names import SPLITS, spellings, split_of

ROBOFLOW = "_annotations.coco.json"
# One file for everything, of CVAT, Roboflow and Label Studio: train and val where it is alone.
_SINGLE = ("annotations/instances_default.json", ROBOFLOW, "result.json", "result_coco.json")
# Images without annotations, for which detections are written.
_UNANNOTATED = ("annotations/image_info_test-dev2017.json", "annotations/image_info_test2017.json")
_ENDINGS = (".json", ".json.gz")


def split_files(root: str | os.PathLike, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, 2017 names first.

    Raises:
        ValueError: one of them is absent; the message lists what was looked for.
    """
    if not Path(root).is_dir():
        raise ValueError(f"{root}: no such data set folder")
    annotation_file = find_annotation_file(root, split)
    if annotation_file is None:
        looked_for = [f"annotations/instances_{name}.json" for name in (f"{split}2017", split)]
        others = sorted(path.name for path in Path(root, "annotations").glob("*.json"))
        raise ValueError(
            f"{root}: no annotations of split {split!r}; looked for {_and(looked_for)}"
            + (f"; annotations/ has {', '.join(others[:5])}" if others else "")
        )
    image_folder = image_folder_of(annotation_file)
    if image_folder is None:
        folders = _and(_folders_of(annotation_file))
        raise ValueError(
            f"{root}: no images of split {split!r}; looked for {folders}; it holds "
            f"{contents_of(Path(root))}; name the folder with --{split}-json {annotation_file} "
            f"--{split}-images DIR"
        )
    return annotation_file, image_folder


def find_annotation_file(root: str | os.PathLike, split: str) -> Path | None:
    """The annotation file of a split, if the data set has one."""
    names = list(dict.fromkeys([f"{split}2017", split, *spellings(split)]))
    places = [f"annotations/instances_{name}" for name in names]
    places += [f"annotations/{name}" for name in names]
    files = [f"{place}{ending}" for place in places for ending in _ENDINGS]
    files += [f"{name}/{ROBOFLOW}" for name in names]
    files += _UNANNOTATED if split == "test" else ()
    found = _first_there(Path(root), files)
    if found or split not in ("train", "val") or any(_has_own_file(root, s) for s in SPLITS):
        return found
    return _first_there(Path(root), _SINGLE)


def _has_own_file(root: str | os.PathLike, split: str) -> bool:
    """Whether an annotation file is named after the split."""
    names = [f"{split}2017", split, *spellings(split)]
    files = [f"annotations/{kind}{n}.json" for n in names for kind in ("instances_", "")]
    return _first_there(Path(root), [*files, *(f"{n}/{ROBOFLOW}" for n in names)]) is not None


def image_folder_of(annotation_file: Path) -> Path | None:
    """The folder that the file names in an annotation file are relative to."""
    root = annotation_file.parent
    if annotation_file.name == ROBOFLOW:
        return root
    if root.name == "annotations":
        root = root.parent
    path = _first_there(root, _folders_of(annotation_file), is_kind=Path.is_dir)
    return root if path is None and scan_images(root, recursive=False).images else path


def annotated_splits(root: str | os.PathLike) -> list[str]:
    """The splits that have an annotation file; those of usual names first."""
    files = sorted(Path(root, "annotations").glob("instances_*.json*"))
    names = [_name_of(file) for file in files]
    # instances_train.original.json is what fix_coco_annotations.py keeps
    usual = {name: split_of(name.lower()) for name in names if "." not in name}
    found = {split if split in SPLITS else name for name, split in usual.items()} - {"default"}
    found |= {split for split in SPLITS if find_annotation_file(root, split)}
    return [split for split in SPLITS if split in found] + sorted(found.difference(SPLITS))


def find_image_folder(root: str | os.PathLike, split: str) -> Path | None:
    """The folder that the file names of a split are relative to, if the data set has one."""
    paths = [Path(root, name) for name in _folder_names(split)]
    return next((path for path in paths if path.is_dir()), None)


def _name_of(annotation_file: Path) -> str:
    """train of instances_train.json and of instances_train.json.gz."""
    return annotation_file.name.removeprefix("instances_").partition(".json")[0]


def _folders_of(annotation_file: Path) -> list[str]:
    name = _name_of(annotation_file)
    if name.startswith("image_info_test"):
        return _folder_names("test")
    if name.lower() in ("default", "result", "result_coco"):
        return ["images/default", "default", "images"]
    split = split_of(name.lower())
    # Beside instances_valid.json the images are in valid/, if that is there.
    own = [] if name in (f"{split}2017", split) else [name, f"images/{name}"]
    return [*own, *_folder_names(split)]


def _first_there(
    root: Path, names: Sequence[str], *, is_kind: Callable[[Path], bool] = Path.is_file
) -> Path | None:
    """The first of these names that is there, whatever the case of its letters."""
    for name in names:
        path = root / name
        if is_kind(path):
            return path
    listed = {}
    for parent in {os.path.dirname(name) for name in names}:
        entries = (root / parent).iterdir() if (root / parent).is_dir() else ()
        listed[parent] = {path.name.lower(): path.name for path in entries}
    for name in names:
        parent, base = os.path.split(name)
        actual = listed[parent].get(base.lower())
        if actual and is_kind(root / parent / actual):
            return root / parent / actual
    return None


def _folder_names(split: str) -> list[str]:
    return [f"{split}2017", split, f"images/{split}2017", f"images/{split}", "images"]


def _and(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
