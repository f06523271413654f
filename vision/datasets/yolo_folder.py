"""Finding the splits, images, labels and class names of a folder in YOLO's layouts."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vision.datasets.image_files import list_images
from vision.datasets.yolo_config import DataYaml, read_class_file, read_data_yaml, read_text

_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
# What the folder of a split may be called.
_SPLIT_FOLDERS = {
    "train": ("train", "train2017"),
    "val": ("val", "valid", "val2017"),
    "test": ("test", "test2017"),
}


@dataclass(frozen=True)
class YoloFolder:
    """A YOLO data set: `splits` maps the name of a split to its image files, in order."""

    root: Path
    classes: dict[int, str]
    splits: dict[str, list[str]]


def find_yolo_folder(
    root: str | Path,
    *,
    split_files: Mapping[str, str | Path] | None = None,
    class_file: str | Path | None = None,
) -> YoloFolder:
    """Find out how a YOLO folder is laid out.

    Splits come from the first of: `splits/*.txt`, the train, val and test of data.yaml, the
    folders images/<split> and <split>/images. Class names come from the first of: `class_file`,
    classes.txt, the names of data.yaml, labels/classes.txt.

    Args:
        root: the folder, or its data.yaml.
        split_files: {split: file of image paths, one a line}, added to the splits found, or
            instead of them.
        class_file: a file with one class name a line.

    Raises:
        OSError: a file cannot be read.
        ValueError: something is missing or ambiguous; the message names it and the remedy.
    """
    root = Path(root)
    config = None
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        config, root = read_data_yaml(root), root.parent
    elif not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds images/ and labels/")
    elif (root / "data.yaml").is_file():
        config = read_data_yaml(root / "data.yaml")
    classes = _find_classes(root, class_file, config)
    files = {split: root / "splits" / f"{split}.txt" for split in _SPLIT_FOLDERS}
    files = {split: file for split, file in files.items() if file.is_file()}
    found = {} if files else _splits_of_config(root, config) or _splits_of_folders(root)
    for split, file in {**files, **(split_files or {})}.items():
        found[split] = _read_split(root, Path(file))
    splits = {split: found[split] for split in (*_SPLIT_FOLDERS, *found) if split in found}
    if not splits:
        raise ValueError(
            f"{root}: no splits; looked for splits/train.txt, train: and val: in data.yaml, "
            "images/train/ and train/images/; write image paths into splits/train.txt, one a line"
        )
    for split, images in splits.items():
        _check_images(split, images)
    return YoloFolder(root, classes, splits)


def yolo_signs(root: Path) -> list[str]:
    """What in a folder speaks for label files in YOLO's format; nothing where it is another's."""
    if root.is_file():
        return [root.name] if root.suffix.lower() in (".yaml", ".yml") else []
    names = ["data.yaml", "classes.txt", "labels/classes.txt"]
    names += [f"splits/{split}.txt" for split in _SPLIT_FOLDERS]
    found = [name for name in names if (root / name).is_file()]
    return found + [f"{path.name}/" for path in (root / "labels",) if path.is_dir()]


def label_candidates(root: Path, image_file: str) -> Iterator[str]:
    """Where the label file of an image may be, the likeliest place first.

    That is beside it with the last images/ of its path turned into labels/, as ultralytics has
    it, and labels/<image stem>.txt of the root.
    """
    stem, _ = os.path.splitext(image_file)
    head, images, tail = (os.sep + stem).rpartition(_IMAGES)
    if images:
        yield f"{head}{_LABELS}{tail}.txt".removeprefix(os.sep)
    yield os.path.join(root, "labels", os.path.basename(stem) + ".txt")


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
    if (root / "classes.txt").is_file():
        return read_class_file(root / "classes.txt")
    if config is not None and config.classes is not None:
        return config.classes
    if (root / "labels" / "classes.txt").is_file():
        return read_class_file(root / "labels" / "classes.txt")
    raise ValueError(
        f"{root}: no class names; write them into {root / 'classes.txt'}, one a line, in the "
        "order of the class ids"
    )


def _read_split(root: Path, split_file: Path) -> list[str]:
    """The image files that a split file lists; paths that do not exist are looked for in images/.

    Raises:
        ValueError: some are nowhere.
    """
    places = _Places(root, split_file.parent)
    images, missing = [], []
    for number, line in enumerate(read_text(split_file).split("\n"), 1):
        if name := line.strip():
            image = places.locate(name) or places.locate(name.replace("\\", "/"))
            images.append(image)
            if image is None:
                missing.append(f"line {number} ({name})")
    if missing:
        raise ValueError(
            f"{split_file}: {len(missing)} of {len(images)} images exist neither at their path "
            f"nor as {root / 'images'}/<name>: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; restore them or remove their lines"
        )
    return images


class _Places:
    """Where the images of a split file may be; one listing of a folder stands for many looks.

    Args:
        root: the data set.
        base: the folder of the split file.
    """

    def __init__(self, root: Path, base: Path) -> None:
        self._root, self._base = str(root), str(base)
        self._files_in = lru_cache(maxsize=None)(_files_in)
        self._by_folder: dict[str, list[tuple[str, frozenset[str]]]] = {}

    def locate(self, name: str) -> str | None:
        """The file of an image path that may be relative, or of another machine."""
        folder, base = os.path.split(name)
        places = self._by_folder.get(folder)
        if places is None:
            places = self._by_folder[folder] = self._places_of(folder)
        for prefix, names in places:
            if base in names:
                return prefix + base
        # a disk that knows no case, or a folder that cannot be listed
        return next((place + base for place, _ in places if os.path.isfile(place + base)), None)

    def _places_of(self, folder: str) -> list[tuple[str, frozenset[str]]]:
        """Folders in which an image that is listed in `folder` may be, and their files."""
        below_images = os.path.join(folder, "").rpartition("/images/")[2]
        places = [
            os.path.join(self._root, folder),
            os.path.join(self._base, folder),
            os.path.join(self._root, "images"),
            os.path.join(self._root, "images", below_images),
        ]
        places = [os.path.join(os.path.normpath(place), "") for place in places]
        return [(place, self._files_in(place)) for place in dict.fromkeys(places)]


def _files_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _splits_of_config(root: Path, config: DataYaml | None) -> dict[str, list[str]]:
    """The splits of a data.yaml; one whose places are all elsewhere has none."""
    splits: dict[str, list[str]] = {}
    for split, places in config.splits.items() if config else ():
        found = [_find_place(root, config.base, place) for place in places]
        if None not in found:
            splits[split] = [
                image
                for place in found
                for image in (list_images(place) if place.is_dir() else _read_split(root, place))
            ]
    return splits


def _find_place(root: Path, base: str, place: str) -> Path | None:
    """A folder or file that a data.yaml names; its `path` may be of another machine."""
    inner = place.removeprefix("../")  # as Roboflow writes it, meaning the folder itself
    places = (root / base / place, root / place, root / inner)
    return next((place for place in places if place.exists()), None)


def _splits_of_folders(root: Path) -> dict[str, list[str]]:
    splits = {}
    for split, names in _SPLIT_FOLDERS.items():
        places = [root / "images" / name for name in names]
        places += [root / name / "images" for name in names]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is not None:
            splits[split] = list_images(folder)
    return splits


def _check_images(split: str, images: list[str]) -> None:
    if not images:
        raise ValueError(f"split {split} has no images; add some, or remove the split")
    for image in images:
        try:
            image.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{image!r}: the name is not UTF-8; rename the file") from None
