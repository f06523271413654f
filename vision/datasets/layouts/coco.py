"""COCO's layout: annotations/instances_<split>.json and folders of images."""

from collections.abc import Mapping
from pathlib import Path

from vision.datasets.coco_folder import annotated_splits, find_annotation_file, split_files
from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.layout import NO_OPTIONS, Layout, OpenOptions, Source

Pair = tuple[str, str]  # an annotation file and the folder of its images


class CocoLayout(Layout):
    """A folder with annotations/ and images."""

    title = "COCO"
    needs = "annotations/instances_<split>.json or <split>/_annotations.coco.json, and images"
    takes = frozenset({"boxes"})

    @staticmethod
    def recognise(root: Path, split: str | None) -> str | None:
        """Name the annotation file of the split."""
        if split is None:
            split = next(iter(annotated_splits(root)), None)
        file = split and find_annotation_file(root, split)
        return file and file.relative_to(root).as_posix()

    @staticmethod
    def nearest(root: Path, split: str) -> str | None:
        """Point to a file that may have COCO annotations under another name."""
        places = ("annotations/*.json", "*.json", "*/*.coco.json")
        file = next((file for place in places for file in sorted(root.glob(place))), None)
        if file is None:
            return None
        return (
            f"if {file.relative_to(root).as_posix()} has COCO annotations of the {split} split, "
            f"copy it to annotations/instances_{split}.json and put its images into {split}/"
        )

    @property
    def splits(self) -> list[str]:
        """Those that have an annotation file."""
        return annotated_splits(self.root)

    def open(self, split: str) -> Source:
        """Read the split's annotation file, and find its images."""
        annotation_file, image_folder = split_files(self.root, split)
        index = load_coco_index(annotation_file, image_folder, box_form=self.options.boxes)
        return Source(index, image_folder)


class CocoPairs(CocoLayout):
    """Annotation files that were named, each with its folder of images, instead of a folder.

    Args:
        pairs: {split: (annotation file, image folder)}.
        options: how to read them.
    """

    def __init__(self, pairs: Mapping[str, Pair], options: OpenOptions) -> None:
        super().__init__(Path(), options)
        self._pairs = pairs

    @property
    def splits(self) -> list[str]:
        """Those for which a file was named."""
        return list(self._pairs)

    def open(self, split: str) -> Source:
        """Read the file that was named for the split."""
        if split not in self._pairs:
            given = " ".join(file for file, _ in self._pairs.values())
            raise ValueError(
                f"{given}: given as the {' and '.join(self._pairs)} split, and the split asked for "
                f"is {split}; give its file and images too, or ask for another split"
            )
        return open_pair(*self._pairs[split], options=self.options)


def open_pair(
    annotation_file: str | Path, image_folder: str | Path, *, options: OpenOptions = NO_OPTIONS
) -> Source:
    """Read any COCO annotation file with any folder of images.

    Raises:
        OSError: a file cannot be read.
        ValueError: one of the two is not there, or something in the file is wrong.
    """
    if not Path(image_folder).is_dir():
        raise ValueError(f"{image_folder}: no such folder of images")
    return Source(
        load_coco_index(annotation_file, image_folder, box_form=options.boxes), Path(image_folder)
    )
