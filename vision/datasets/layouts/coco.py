"""COCO's layout: annotations/instances_<split>.json and folders of images."""

from pathlib import Path

from vision.datasets.coco_folder import annotated_splits, find_annotation_file, split_files
from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.layout import Layout, Source


class CocoLayout(Layout):
    """A folder with annotations/ and images."""

    title = "COCO"
    needs = "annotations/instances_<split>.json and images"
    takes = frozenset({"boxes"})

    @staticmethod
    def recognise(root: Path, split: str | None) -> str | None:
        if split is None:
            split = next(iter(annotated_splits(root)), None)
        file = split and find_annotation_file(root, split)
        return file and file.relative_to(root).as_posix()

    @staticmethod
    def nearest(root: Path, split: str) -> str | None:
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
        return annotated_splits(self.root)

    def open(self, split: str) -> Source:
        annotation_file, image_folder = split_files(self.root, split)
        return Source(load_coco_index(annotation_file, image_folder), image_folder)
