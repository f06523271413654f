"""Finding the splits, images, labels and class names of a folder in YOLO's layouts."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vision.datasets.findings import Findings
from vision.datasets.folder_contents import contents_of
from vision.datasets.image_list import scan_images
from vision.datasets.split_names import SPLITS, spellings
from vision.datasets.yolo_config import (
    DataYaml,
    data_yamls,
    find_data_yaml,
    read_class_file,
    read_data_yaml,
)
from vision.datasets.yolo_lists import is_image_list, last_parts, read_list

_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "classes.names")


@dataclass(frozen=True)
class YoloFolder:
    """A YOLO data set: `splits` maps the name of a split to its image files, in order."""

    root: Path
    classes: dict[int, str]
    splits: dict[str, list[str]]
    has_key_points: bool = False  # as data.yaml says


def find_yolo_folder(
    root: str | Path,
    *,
    split_files: Mapping[str, str | Path] | None = None,
    class_file: str | Path | None = None,
    findings: Findings | None = None,
) -> YoloFolder:
    """Find out how a YOLO folder is laid out.

    Splits come from the first of: `splits/*.txt`, the train, val and test of data.yaml, lists
    such as train.txt in the folder itself, the folders images/<split>, <split>/images and
    <split>. The val split may be called valid or validation, too. Class names come from the first
    of: `class_file`, classes.txt, the names of data.yaml, labels/classes.txt, obj.names.

    Args:
        root: the folder, or its data.yaml.
        split_files: {split: file of image paths, one a line}, added to the splits found, or
            instead of them.
        class_file: a file with one class name a line.
        findings: collects what was passed over.

    Raises:
        OSError: a file cannot be read.
        ValueError: something is missing or ambiguous; the message names it and the remedy.
    """
    root = Path(root)
    findings = Findings() if findings is None else findings
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        config, root = read_data_yaml(root), root.parent
    elif not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds images/ and labels/")
    else:
        file = find_data_yaml(root)
        config = read_data_yaml(file) if file else None
    classes = _find_classes(root, class_file, config)
    found = _find_splits(root, config, findings)
    for split, file in (split_files or {}).items():
        found[split] = read_list(root, Path(file))
    splits = {split: found[split] for split in (*SPLITS, *found) if split in found}
    if not splits:
        raise ValueError(
            f"{root}: no splits; looked for splits/train.txt, train: and val: in data.yaml, "
            "images/train/ and train/images/; write image paths into splits/train.txt, one a line"
            f" (the folder holds {contents_of(root)})"
        )
    for split, images in splits.items():
        _check_images(root, split, images)
    return YoloFolder(root, classes, splits, bool(config and config.has_key_points))


def yolo_signs(root: Path) -> list[str]:
    """What in a folder speaks for label files in YOLO's format; nothing where it is another's."""
    if root.is_file():
        return [root.name] if root.suffix.lower() in (".yaml", ".yml") else []
    names = ["data.yaml", *_CLASS_FILES]
    names += [f"splits/{name}.txt" for split in SPLITS for name in spellings(split)]
    found = [name for name in names if (root / name).is_file()]
    if not found and root.is_dir():
        found = [file.name for file in data_yamls(root)]
    labels = root / "labels"
    is_of_yolo = labels.is_dir() and next(labels.glob("*.xml"), None) is None  # else Pascal VOC's
    return found + ["labels/"] * is_of_yolo


def label_candidates(root: Path, image_file: str) -> Iterator[str]:
    """Where the label file of an image may be, the likeliest place first.

    That is beside it with the last images/ of its path turned into labels/, as ultralytics has
    it; labels/<image stem>.txt of the root; and beside the image, as darknet has it.
    """
    stem, _ = os.path.splitext(image_file)
    head, images, tail = (os.sep + stem).rpartition(_IMAGES)
    if images:
        yield f"{head}{_LABELS}{tail}.txt".removeprefix(os.sep)
    yield os.path.join(root, "labels", os.path.basename(stem) + ".txt")
    yield f"{stem}.txt"


def names_below(folder: Path, images: list[str]) -> list[str]:
    """The images' paths relative to a folder, with slashes; links are followed if need be.

    Raises:
        ValueError: an image is not below the folder.
    """
    prefix = os.path.join(folder, "")
    if all(image.startswith(prefix) for image in images):
        return [image[len(prefix) :].replace(os.sep, "/") for image in images]
    real_path = lru_cache(os.path.realpath)
    prefix = os.path.join(real_path(folder), "")
    names = []
    for image in images:
        parent, name = os.path.split(image)
        place = os.path.join(real_path(parent), name)
        if not place.startswith(prefix):
            raise ValueError(f"{image}: is not below {folder}")
        names.append(place[len(prefix) :].replace(os.sep, "/"))
    return names


def _find_classes(
    root: Path, class_file: str | Path | None, config: DataYaml | None
) -> dict[int, str]:
    if class_file is not None:
        return read_class_file(Path(class_file))
    names = list(_CLASS_FILES)
    if config is not None and config.classes is not None:
        names = names[:1]  # what data.yaml says goes before the others
    file = next((root / name for name in names if (root / name).is_file()), None)
    if file is not None:
        return read_class_file(file)
    if config is not None and config.classes is not None:
        return config.classes
    raise ValueError(
        f"{root}: no class names; write them into {root / 'classes.txt'}, one a line, in the "
        f"order of the class ids (the folder holds {contents_of(root)})"
    )


def _find_splits(root: Path, config: DataYaml | None, findings: Findings) -> dict[str, list[str]]:
    """The image files of each split, from the first kind of place that has any."""
    lists = _first_of_each(lambda name: [root / "splits" / f"{name}.txt"], findings)
    if lists:
        known = {f"{name}.txt" for split in SPLITS for name in spellings(split)}
        for file in sorted((root / "splits").glob("*.txt")):
            if file.name not in known:
                findings.add("passed over", str(file), "its name is none of train, val and test")
        return {split: read_list(root, file) for split, file in lists.items()}
    if config and config.splits:
        return {
            split: [
                image
                for place in places
                for image in _images_of(
                    root, _find_place(root, config, split, place, findings), findings
                )
            ]
            for split, places in config.splits.items()
        }
    found = _first_of_each(lambda name: _places_by_name(root, name), findings)
    if not found:  # Label Studio and LabelImg know no splits
        for place in (root / "images", root):
            if scan_images(place, recursive=False).images:
                findings.add("no splits", str(place), "all its images are taken for training")
                return {"train": scan_images(place, recursive=False).images}
    return {split: _images_of(root, place, findings) for split, place in found.items()}


def _places_by_name(root: Path, name: str) -> list[Path]:
    """Where the images of a split of this name may be, the likeliest place first."""
    places = [root / "images" / name, root / name / "images"]
    if is_image_list(root / f"{name}.txt"):
        places.insert(0, root / f"{name}.txt")
    if scan_images(root / name, recursive=False).images:
        places.append(root / name)
    return places


def _first_of_each(places_of: Callable[[str], list[Path]], findings: Findings) -> dict[str, Path]:
    """The first place of each split that exists; those of its other names are noted."""
    taken: dict[str, Path] = {}
    for split in SPLITS:
        found = {
            name: place
            for name in spellings(split)
            if (place := next((path for path in places_of(name) if path.exists()), None))
        }
        for place in found.values():
            first = taken.setdefault(split, place)
            if not os.path.samefile(first, place) and first not in (place, *place.parents):
                findings.add("passed over", str(place), f"split {split} is {first}")
    return taken


def _images_of(root: Path, place: Path, findings: Findings) -> list[str]:
    """The images of a folder, or those that a file lists."""
    if not place.is_dir():
        return read_list(root, place)
    found = scan_images(place)
    for file in found.others:
        findings.add("passed over", file, "a kind of picture that is not read; make it JPEG or PNG")
    return found.images


def _find_place(root: Path, config: DataYaml, split: str, place: str, findings: Findings) -> Path:
    """A folder or file that a data.yaml names; its `path` may be of another machine.

    Raises:
        ValueError: it is not there.
    """
    places = [root / config.base / place, root / place]
    name = place.replace("\\", "/")
    # Roboflow writes ../train/images or my-set-1/train/images, meaning the folder itself. What
    # names the split stays.
    names_split = {part for part in name.split("/") if part in spellings(split)}
    if names_split or name != place or name.startswith(("/", "..")):
        places += [root / end for end in last_parts(name) if names_split <= {*end.split("/")}]
    found = next((path for path in places if path.exists()), None)
    if found is not None and found not in places[:2] and not name.startswith(("/", "..")):
        findings.add("found elsewhere", str(config.file), f"{split}: {place} is {found}")
    if found is None:
        raise ValueError(
            f"{config.file}: {split}: {place} is not there, neither as {places[0]} nor as "
            f"{places[1]}; correct the line, or remove it"
        )
    return found


def _check_images(root: Path, split: str, images: list[str]) -> None:
    if not images:
        raise ValueError(f"{root}: split {split} has no images; add some, or remove the split")
    for image in images:
        try:
            image.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{image!r}: the name is not UTF-8; rename the file") from None
