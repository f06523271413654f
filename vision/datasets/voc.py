"""The images and boxes of a Pascal VOC folder as arrays, split by split."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, Category, build_index
from vision.datasets.findings import Findings
from vision.datasets.image_headers import image_size
from vision.datasets.progress import show_progress
from vision.datasets.voc_folder import VocSplit, find_class_file, find_voc_splits, image_stems
from vision.datasets.voc_xml import VocFile, read_voc_xml
from vision.files.guarded import is_inside
from vision.files.text import SHORT_TEXT, read_text

_NUM_THREADS = 8  # they wait for the disk side by side


class VocReader:
    """Reads a VOC folder, one split after the other.

    Args:
        root: the folder.
        use_difficult: train on objects marked difficult; otherwise no prior inside one is a
            negative, as with COCO's crowds. In other splits they are ignored in any case.
        one_based: pixels are counted from 1 as in the original VOC: 1 is subtracted from all four
            coordinates, as qfgaohao's pytorch-ssd does.

    Attributes:
        findings: what was passed over.

    Raises:
        OSError: a file cannot be read.
        ValueError: there is no split, a list is empty, or a name leads out of the folder.
    """

    def __init__(
        self,
        root: Path,
        *,
        use_difficult: bool = False,
        one_based: bool = False,
    ) -> None:
        self.findings = Findings()
        self.root = root
        self.splits = find_voc_splits(root, self.findings)
        if not self.splits:
            raise ValueError(f"{root}: no Pascal VOC annotations; Annotations/*.xml are needed")
        for place in self.splits.values():
            self._check_names(place)
        self._use_difficult = use_difficult
        self._offset = 1.0 if one_based else 0.0
        self._files: dict[Path, VocFile] = {}  # that have been read
        self._classes: list[str] | None = None

    @property
    def classes(self) -> list[str]:
        """The names in labels.txt, or those of the objects of all splits, sorted."""
        if self._classes is None:
            file = find_class_file(self.root)
            self._classes = _read_classes(file) if file else self._names_of_objects()
        return self._classes

    def read(self, split: str) -> tuple[AnnotationIndex, Path]:
        """Read a split; return its index and the folder of its images.

        Raises:
            OSError: a file cannot be read.
            ValueError: annotation files or images are missing or not readable.
        """
        place = self.splits[split]
        names = self._without_repetitions(place)
        files = self._read_files(place, names)
        images = _find_images(place, names, files)
        sizes = _check_sizes(place, images, files)
        index = self._build(place, images, sizes, files)
        if not files or not any(file.objects for file in files):
            raise ValueError(f"{place.where} of {self.root}: no image of it has an object")
        return index, place.image_folder

    def _check_names(self, place: VocSplit) -> None:
        outside = [name for name in place.names if not is_inside(name)]
        if outside:
            raise ValueError(
                f"{self.root}: {len(outside)} names in {place.where} lead out of the folder, the "
                f"first is {outside[0]!r}; remove them"
            )

    def _without_repetitions(self, place: VocSplit) -> list[str]:
        names = list(dict.fromkeys(place.names))
        if len(names) < len(place.names):
            count = len(place.names) - len(names)
            self.findings.add("listed twice", place.where, f"{count} names stand there again")
        return names

    def _read_files(self, place: VocSplit, names: list[str]) -> list[VocFile]:
        paths = [place.xml_folder / f"{name}.xml" for name in names]
        new = [path for path in paths if path not in self._files]
        problems: list[str] = []
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            results = show_progress(pool.map(_read_or_reason, new), len(new))
            for path, result in zip(new, results, strict=True):
                if isinstance(result, VocFile):
                    self._files[path] = result
                else:
                    problems.append(result)
        if problems:
            more = f" ({len(problems)} of {len(paths)} files cannot be used)"
            raise ValueError(problems[0] + (more if len(problems) > 1 else ""))
        return [self._files[path] for path in paths]

    def _names_of_objects(self) -> list[str]:
        places = self.splits.values()
        files = (f for place in places for f in self._read_files(place, place.names))
        names = sorted({item.name for file in files for item in file.objects})
        if not names:
            raise ValueError(f"{self.root}: no annotation file has an object; is it a VOC export?")
        return names

    def _build(
        self, place: VocSplit, images: list[str], sizes: np.ndarray, files: list[VocFile]
    ) -> AnnotationIndex:
        label_of = {name: label for label, name in enumerate(self.classes, 1)}
        rows, labels, corners, difficult = [], [], [], []
        for row, file in enumerate(files):
            for item in file.objects:
                label = label_of.get(item.name)
                if label is None:
                    message = f"{item.name!r} is not in labels.txt; left out"
                    self.findings.add("unknown class", f"{place.xml_folder}/{images[row]}", message)
                    continue
                rows.append(row)
                labels.append(label)
                corners.append(item.box)
                difficult.append(item.difficult)
        boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
        if len(boxes) and boxes.min() >= 0 and boxes.max() <= 1:
            raise ValueError(
                f"{place.where} of {self.root}: all {len(boxes)} boxes are numbers from 0 to 1, so "
                "fractions of the image, where VOC has pixels; multiply them by its width and "
                "height"
            )
        boxes -= self._offset
        boxes[:, 2:] -= boxes[:, :2]
        ignored = np.array(difficult, dtype=bool)
        if self._use_difficult and place.name == "train":
            ignored[:] = False
        return build_index(
            f"{place.where} of {self.root}",
            [Category(label, label, label, name) for name, label in label_of.items()],
            image_ids=np.arange(1, len(images) + 1),
            file_names=images,
            sizes=sizes,
            rows=np.array(rows, dtype=np.int64),
            labels=np.array(labels, dtype=np.int64),
            boxes_xywh=boxes,
            areas=boxes[:, 2] * boxes[:, 3],
            iscrowd=ignored,
        )


def _read_classes(file: Path) -> list[str]:
    """The names in labels.txt: a line each, or with commas as in the family's files."""
    lines = read_text(file, most_bytes=SHORT_TEXT).replace(",", "\n").splitlines()
    names = [" ".join(line.split()) for line in lines if line.strip()]
    names = [name for name in names if name.upper() != "BACKGROUND"]
    if not names:
        raise ValueError(f"{file}: holds no class names; write one a line")
    return list(dict.fromkeys(names))


def _read_or_reason(path: Path) -> VocFile | str:
    """The content of an annotation file, or why it cannot be used."""
    try:
        return read_voc_xml(path)
    except FileNotFoundError:
        return f"{path}: not there, though its image is listed; restore it or remove its line"
    except (OSError, ValueError) as error:
        return str(error)


def _find_images(place: VocSplit, names: list[str], files: list[VocFile]) -> list[str]:
    """The image of each name, by the name itself or by the annotation file's <filename>."""
    by_stem = image_stems(place.image_folder)
    present = set(by_stem.values())
    images, missing = [], []
    for name, file in zip(names, files, strict=True):
        image = by_stem.get(name) or (file.file_name if file.file_name in present else None)
        images.append(image or "")
        if image is None:
            missing.append(name)
    if missing:
        raise ValueError(
            f"{place.image_folder}: {len(missing)} of the {len(names)} images of {place.where} are "
            f"missing: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; restore "
            "them, or remove their lines"
        )
    return images


def _check_sizes(place: VocSplit, images: list[str], files: list[VocFile]) -> np.ndarray:
    """(height, width) of the images, int64 [I, 2]; the annotations' where the image has it stored.

    Raises:
        ValueError: an image has another size than its annotation file says.
    """
    paths = [os.path.join(place.image_folder, image) for image in images]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = list(pool.map(image_size, paths))
    sizes = np.array([file.size or size for file, size in zip(files, found, strict=True)])
    upright = np.array(found)
    other = (sizes != upright).any(axis=1) & (sizes != upright[:, ::-1]).any(axis=1)
    if other.any():
        row = int(np.argmax(other))
        (height, width), (stated_height, stated_width) = found[row], sizes[row]
        raise ValueError(
            f"{paths[row]}: the image is {width}x{height} pixels, but its annotations were made "
            f"for {stated_width}x{stated_height} ({int(other.sum())} such images); replace the "
            "image, or correct <size> and the boxes"
        )
    return sizes.reshape(-1, 2)
