"""YOLO's layouts: a label file for each image; class names; splits as lists or folders."""

from pathlib import Path

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, Category, build_index
from vision.datasets.findings import Findings
from vision.datasets.layouts.layout import Layout, OpenOptions, Source, log_findings
from vision.datasets.progress import show_progress
from vision.datasets.yolo import YoloReader, YoloSplit
from vision.datasets.yolo_folder import find_yolo_folder, yolo_signs


class YoloLayout(Layout):
    """A folder of images and label files, which is only read."""

    title = "YOLO"
    needs = "labels/, images/ and class names in classes.txt or data.yaml"
    takes = frozenset({"split_files", "strict_labels", "label_format"})
    lists_all = False  # training images without a label are left out

    def __init__(self, root: Path, options: OpenOptions) -> None:
        super().__init__(root, options)
        findings = Findings()
        folder = find_yolo_folder(root, split_files=options.split_files, findings=findings)
        self._reader = YoloReader(
            folder,
            strict_labels=options.strict_labels,
            label_format=options.label_format,
            findings=findings,
        )
        self._log_findings(f"{root}")

    @staticmethod
    def recognise(root: Path, split: str | None) -> str | None:
        """Name the first two of the files and folders that tell YOLO's labels."""
        return ", ".join(yolo_signs(root)[:2]) or None

    @staticmethod
    def nearest(root: Path, split: str) -> str | None:
        """Return None: what could be meant as YOLO's is recognised, and then says what it lacks."""
        return None

    @property
    def splits(self) -> list[str]:
        """Those of splits/, data.yaml or the folders, and of the files that flags name."""
        return list(self._reader.folder.splits)

    def open(self, split: str) -> Source:
        """Read the label files of the split's images."""
        if split not in self.splits:
            raise ValueError(
                f"{self.root}: no {split} split among its YOLO labels ({', '.join(self.splits)}); "
                f"write its image paths into splits/{split}.txt"
            )
        content = self._reader.read(split, progress=show_progress)
        self._log_findings(f"{self.root}, split {split}")
        name = f"split {split} of {self.root}"
        return Source(index_of_yolo(content, name=name), content.image_folder)

    def _log_findings(self, where: str) -> None:
        log_findings(self._reader.findings, where)
        self._reader.findings = Findings()


def index_of_yolo(split: YoloSplit, *, name: str) -> AnnotationIndex:
    """The index that the split has after convert_yolo_to_coco.py; `name` is for messages."""
    class_ids = np.array(list(split.classes))
    boxes = split.boxes.boxes_xywh
    return build_index(
        name,
        [
            Category(label, class_id + 1, class_id + 1, class_name)
            for label, (class_id, class_name) in enumerate(split.classes.items(), 1)
        ],
        image_ids=np.arange(1, len(split.names) + 1),
        file_names=split.names,
        sizes=split.sizes,
        rows=split.boxes.image_indices,
        labels=np.searchsorted(class_ids, split.boxes.class_ids) + 1,
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        iscrowd=np.zeros(len(boxes), dtype=bool),
    )
