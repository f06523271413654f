"""Detections as labels to be corrected: COCO, YOLO and Pascal VOC, and which images come first."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec
import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, build_index
from vision.datasets.coco_export import coco_of_index, write_coco
from vision.files.atomic_file import write_atomically
from vision.files.guarded import is_inside, own_only, read_regular
from vision.files.printable import printable
from vision.files.stand_ins import refuse_stand_in

_LARGEST = 1e9  # of a number in pixels, so that areas can be computed


class _Result(msgspec.Struct, gc=False):
    """One entry of COCO's results format."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Found:
    """Detections in the images of an index, as columns of N."""

    rows: np.ndarray  # int64, position of the image
    labels: np.ndarray  # int64, 1..C
    boxes_xywh: np.ndarray  # float64 [N, 4], pixels
    scores: np.ndarray  # float64

    def at_least(self, threshold: float) -> "Found":
        """Those of a score or more."""
        keep = self.scores >= threshold
        return Found(self.rows[keep], self.labels[keep], self.boxes_xywh[keep], self.scores[keep])


def read_detections(path: str | Path, index: AnnotationIndex) -> Found:
    """Read a results file whose ids are those of an index.

    Raises:
        OSError: it cannot be read.
        ValueError: not COCO's results format, or of another data set; names the entry.
    """
    content = read_regular(path)
    refuse_stand_in(content[:512], path)
    try:
        entries = msgspec.json.decode(content, type=list[_Result])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a list of COCO results ({error})") from None
    row_of = {int(number): row for row, number in enumerate(index.image_ids)}
    label_of = {category.category_id: category.label for category in index.categories}
    for place, entry in enumerate(entries):
        if entry.image_id not in row_of or entry.category_id not in label_of:
            raise ValueError(
                f"{path}: entry {place} is of image {entry.image_id} and category "
                f"{entry.category_id}, which {index.annotation_file} does not have; were the "
                "detections made of another data set or split?"
            )
        if not all(abs(number) <= _LARGEST for number in (*entry.bbox, entry.score)):
            raise ValueError(f"{path}: entry {place} has a box or a score beyond {_LARGEST:g}")
    return Found(
        np.array([row_of[entry.image_id] for entry in entries], dtype=np.int64),
        np.array([label_of[entry.category_id] for entry in entries], dtype=np.int64),
        np.array([entry.bbox for entry in entries], dtype=np.float64).reshape(-1, 4),
        np.array([entry.score for entry in entries], dtype=np.float64),
    )


def order_by_doubt(found: Found, num_images: int) -> list[int]:
    """The images by their most doubtful detection, whose score is nearest to a half, first.

    Images without any detection come last, in their own order.
    """
    doubt = np.zeros(num_images)
    np.maximum.at(doubt, found.rows, 1 - np.abs(2 * found.scores.clip(0, 1) - 1))
    return np.argsort(-doubt, kind="stable").tolist()


def write_coco_labels(folder: Path, index: AnnotationIndex, found: Found) -> None:
    """Write instances.json."""
    labelled = build_index(
        index.annotation_file,
        index.categories,
        image_ids=index.image_ids,
        file_names=[index.file_name(row) for row in range(len(index))],
        sizes=index.sizes,
        rows=found.rows,
        labels=found.labels,
        boxes_xywh=found.boxes_xywh,
        areas=found.boxes_xywh[:, 2] * found.boxes_xywh[:, 3],
        iscrowd=np.zeros(len(found.labels), bool),
    )
    content = coco_of_index(labelled, description="detections, not corrected")
    write_coco(folder / "instances.json", content)


def write_yolo_labels(folder: Path, index: AnnotationIndex, found: Found) -> None:
    """Write labels/<image>.txt and classes.txt."""
    names = [category.name for category in index.categories]
    write_atomically(folder / "classes.txt", _name_lines(names))
    for stem, row, rows in _images(index, found):
        height, width = index.sizes[row].tolist()
        boxes = found.boxes_xywh[rows] / [width, height, width, height]
        boxes[:, :2] += boxes[:, 2:] / 2
        lines = [
            f"{label - 1} " + " ".join(f"{number:.6f}" for number in box)
            for label, box in zip(found.labels[rows].tolist(), boxes.tolist(), strict=True)
        ]
        _write(folder / "labels" / f"{stem}.txt", "".join(f"{line}\n" for line in lines))


def write_voc_labels(folder: Path, index: AnnotationIndex, found: Found) -> None:
    """Write Annotations/<image>.xml and labels.txt."""
    names = [category.name for category in index.categories]
    write_atomically(folder / "labels.txt", _name_lines(names))
    for stem, row, rows in _images(index, found):
        height, width = index.sizes[row].tolist()
        objects = []
        for label, (x, y, w, h) in zip(
            found.labels[rows].tolist(), found.boxes_xywh[rows].tolist(), strict=True
        ):
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h), strict=True)
            box = "".join(f"<{key}>{value:.2f}</{key}>" for key, value in corners)
            objects.append(
                f"<object><name>{_in_xml(names[label - 1])}</name><difficult>0</difficult>"
                f"<bndbox>{box}</bndbox></object>"
            )
        text = (
            f"<annotation><filename>{_in_xml(index.file_name(row))}</filename><size><width>{width}"
            f"</width><height>{height}</height><depth>3</depth></size>{''.join(objects)}"
            "</annotation>\n"
        )
        _write(folder / "Annotations" / f"{stem}.xml", text)


WRITERS = {"yolo": write_yolo_labels, "voc": write_voc_labels, "coco": write_coco_labels}


def _images(index: AnnotationIndex, found: Found) -> Iterator[tuple[str, int, np.ndarray]]:
    """(name without suffix, position, its detections) of each image.

    Raises:
        ValueError: a name leads out of the folder, or two images would have one label file.
    """
    order = np.argsort(found.rows, kind="stable")
    ends = np.searchsorted(found.rows[order], np.arange(len(index) + 1))
    names = [index.file_name(row) for row in range(len(index))]
    name_of: dict[str, str] = {}
    for name in names:
        if not is_inside(name):
            raise ValueError(f"{index.annotation_file}: {name!r} leads out of the folder")
        other = name_of.setdefault(os.path.splitext(name)[0], name)
        if other is not name:
            raise ValueError(
                f"{index.annotation_file}: {other!r} and {name!r} would have one label file; "
                "rename one of the images, or use --format coco"
            )
    for row, stem in enumerate(name_of):
        yield stem, row, order[ends[row] : ends[row + 1]]


def _name_lines(names: list[str]) -> bytes:
    return "".join(f"{printable(name)}\n" for name in names).encode()


def _in_xml(text: str) -> str:
    return escape(printable(text))  # XML cannot hold control characters, however they are written


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", opener=own_only) as file:  # of a new folder
        file.write(text)
