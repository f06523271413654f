"""Finding the splits, annotation files, images and class names of a Pascal VOC folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vision.datasets.findings import Findings
from vision.datasets.image_list import scan_images
from vision.datasets.split_names import SPLITS, spellings
from vision.files.text import read_text

_LISTS = "ImageSets/Main"
# Which list a split is read from; the first that is there and not empty.
_LISTS_OF = {
    "train": ("trainval", *spellings("train"), "default"),
    "val": (*spellings("test"), *spellings("val"), "default"),
    "test": (*spellings("test"),),
}
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_XML_FOLDERS = ("Annotations", "annotations", "labels", "")


@dataclass(frozen=True)
class VocSplit:
    """The files of one split; `names` are those of the images without folder and suffix."""

    name: str
    where: str  # the list or folder that names the images, for messages
    xml_folder: Path
    image_folder: Path
    names: list[str]


def find_voc_splits(root: Path, findings: Findings | None = None) -> dict[str, VocSplit]:
    """Find the splits of a VOC folder.

    Lists in ImageSets/Main go first, as the devkit and most tools write them; without any, folders
    train, valid and test that hold images and .xml files, as Roboflow writes them; without these
    all .xml files are the train split.

    Raises:
        OSError: a list cannot be read.
        ValueError: a list is empty.
    """
    findings = Findings() if findings is None else findings
    lists = _find_lists(root)
    if lists:
        return _splits_of_lists(root, lists, findings)
    folders = {
        split: folder
        for split in SPLITS
        for folder in [next(filter(_xml_folder, (root / n for n in spellings(split))), None)]
        if folder
    }
    if folders:
        return {split: _split_of_folder(folder, split) for split, folder in folders.items()}
    return {"train": _split_of_folder(root, "train")} if _xml_folder(root) else {}


def voc_signs(root: Path, split: str | None) -> str | None:
    """What in a folder speaks for VOC's layout; with a split only if that is listed."""
    if not root.is_dir():
        return None
    lists, xml_folder = _find_lists(root), _xml_folder(root)
    if lists and xml_folder:
        wanted = _LISTS_OF.get(split, (split,)) if split else lists
        name = next((name for name in wanted if name in lists), None)
        return name and f"Annotations/*.xml, {_LISTS}/{name}.txt"
    for name in spellings(split) if split else [n for s in SPLITS for n in spellings(s)]:
        if _xml_folder(root / name):
            return f"{name}/*.xml"
    if split in (None, "train") and xml_folder:
        return f"{xml_folder.relative_to(root).as_posix()}/*.xml"
    return None


def nested_voc_folder(root: Path) -> Path | None:
    """A VOC folder below this one, such as VOCdevkit/VOC2007."""
    places = (p.parent.parent for n in ("*", "*/*") for p in root.glob(f"{n}/ImageSets/Main"))
    return next(places, None)


def find_class_file(root: Path) -> Path | None:
    """labels.txt, which lists the classes, if the folder has one."""
    file = root / "labels.txt"
    return file if file.is_file() else None


def image_stems(folder: Path) -> dict[str, str]:
    """{path without suffix, relative to the folder: the image's path} of all images below it."""
    prefix = len(os.path.join(folder, ""))
    names = (path[prefix:].replace(os.sep, "/") for path in scan_images(folder).images)
    return {os.path.splitext(name)[0]: name for name in names}


def _find_lists(root: Path) -> dict[str, Path]:
    """The lists of whole splits; those of one class, such as dog_train.txt, are left out."""
    names = {name for names in _LISTS_OF.values() for name in names}
    files = ((name, root / _LISTS / f"{name}.txt") for name in sorted(names))
    return {name: file for name, file in files if file.is_file()}


def _splits_of_lists(root: Path, lists: dict[str, Path], findings: Findings) -> dict[str, VocSplit]:
    content = {name: list(_listed(file)) for name, file in lists.items()}
    if any(names for name, names in content.items() if name != "default"):
        content.pop("default", None)  # it holds everything, and is a split only where it is alone
    xml_folder, image_folder = _xml_folder(root) or root, _image_folder(root)
    splits = {}
    for split, names in _LISTS_OF.items():
        name = next((name for name in names if content.get(name)), None)
        if name is not None:
            where = f"{_LISTS}/{name}.txt"
            names_there = [_without_folder(n, xml_folder) for n in content[name]]
            splits[split] = VocSplit(split, where, xml_folder, image_folder, names_there)
    if not splits:
        raise ValueError(f"{root / _LISTS}: its lists are empty; write names of images into them")
    used = {split.where for split in splits.values()}
    for name, file in lists.items():
        if f"{_LISTS}/{name}.txt" not in used and name not in ("train", "val"):
            findings.add("list not used", str(file), "another list is read for this split")
    return splits


def _without_folder(name: str, xml_folder: Path) -> str:
    """JPEGImages/a as a, unless there are annotations by the longer name."""
    folder, _, base = name.partition("/")
    is_image_folder = base and folder in _IMAGE_FOLDERS
    return base if is_image_folder and not (xml_folder / f"{name}.xml").exists() else name


def _listed(file: Path) -> Iterator[str]:
    """The names in a list, without the -1, 0 or 1 that lists of one class have behind them."""
    for line in read_text(file).splitlines():
        name, _, mark = line.strip().rpartition(" ")
        name = name.strip() if mark in ("-1", "0", "1") and name else line.strip()
        if name:
            stem, suffix = os.path.splitext(name)
            yield stem if suffix.lower() in (".jpg", ".jpeg", ".png", ".xml") else name


def _split_of_folder(folder: Path, split: str) -> VocSplit:
    xml_folder = _xml_folder(folder) or folder
    names = sorted(
        path.relative_to(xml_folder).with_suffix("").as_posix()
        for path in xml_folder.rglob("*.xml")
        if not path.name.startswith(".")
    )
    return VocSplit(split, f"{folder}", xml_folder, _image_folder(folder), names)


def _xml_folder(root: Path) -> Path | None:
    """The folder of the annotations: one of the usual names below this one, or this one."""
    places = (root / name for name in _XML_FOLDERS)
    return next((place for place in places if next(place.glob("*.xml"), None)), None)


def _image_folder(root: Path) -> Path:
    return next(root / name for name in _IMAGE_FOLDERS if (root / name).is_dir())
