"""Index of one split: its images and boxes in flat arrays, for training and evaluation."""

from dataclasses import dataclass, field, replace

import numpy as np

# Coordinates in pixels of this size or more count as not finite.
NOT_FINITE = 1e9
# The arrays of an AnnotationIndex with a row for each box.
BOX_COLUMNS = ("boxes_xywh", "clipped_boxes", "labels", "areas", "iscrowd", "trainable")


@dataclass(frozen=True)
class Category:
    """A class: its label 1..C, its id in the file, and its id before fix_coco_annotations.py."""

    label: int
    category_id: int
    original_category_id: int
    name: str


@dataclass
class AnnotationIndex:
    """Images and boxes of one split, without a Python object for each image or box.

    Annotations are sorted by image, then in file order: image `i` has the rows `box_offsets[i]` to
    `box_offsets[i + 1]`. Boxes that are not finite, or have no area inside their image, are left
    out (fix_coco_annotations.py drops them); `rejected` has the ids of their images.
    """

    annotation_file: str  # for messages; if the boxes are from many files, another name
    categories: list[Category]  # by ascending id
    image_ids: np.ndarray  # int64 [I]
    sizes: np.ndarray  # int32 [I, 2], (height, width)
    name_bytes: bytes = field(repr=False)
    name_offsets: np.ndarray  # int64 [I + 1]
    box_offsets: np.ndarray  # int64 [I + 1]
    boxes_xywh: np.ndarray  # float64 [A, 4], as in the file
    clipped_boxes: np.ndarray  # float32 [A, 4], xyxy inside the image
    labels: np.ndarray  # int32 [A], 1..C
    areas: np.ndarray  # float64 [A]
    iscrowd: np.ndarray  # bool [A]
    trainable: np.ndarray  # bool [A]: at least 1 px wide and high after clipping
    # what the file lacks or has in another form, and what stands for it -> how often
    accepted: dict[str, int]
    rejected: dict[str, np.ndarray]  # reason -> int64, image ids of boxes not used in training
    clipped_ids: np.ndarray  # int64, image ids of boxes that reach outside by more than a pixel
    doubts: list[str]  # what contradicts itself, in words
    # Labels of classes that nobody marked in these images, so that nothing there is known not to
    # be one: those of the other data sets that are trained or evaluated together.
    unannotated: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, image: int) -> str:
        """Return the `file_name` of the image at this position."""
        return self.name_bytes[self.name_offsets[image] : self.name_offsets[image + 1]].decode()

    def images_of_boxes(self) -> np.ndarray:
        """Return the position of each box's image: int64 [A]."""
        return np.repeat(np.arange(len(self)), np.diff(self.box_offsets))

    def boxes_per_class(self) -> np.ndarray:
        """Count the trainable boxes of labels 1, 2, ...: int64 [C]."""
        labels = self.labels[self.trainable]
        return np.bincount(labels, minlength=len(self.categories) + 1)[1:]

    def take(self, images: np.ndarray) -> "AnnotationIndex":
        """The index of some images, at ascending positions [N]."""
        counts = np.diff(self.box_offsets)[images]
        starts = self.box_offsets[:-1][images]
        ends = np.cumsum(counts)
        rows = np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)
        name_bytes, name_offsets = _pack_names([self.file_name(image) for image in images])
        return replace(
            self,
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            name_bytes=name_bytes,
            name_offsets=name_offsets,
            box_offsets=np.concatenate([[0], ends]),
            **{name: getattr(self, name)[rows] for name in BOX_COLUMNS},
        )

    def num_empty_images(self) -> int:
        """Count the images without a trainable box."""
        before = np.concatenate([[0], np.cumsum(self.trainable)])[self.box_offsets]
        return int((np.diff(before) == 0).sum())


def build_index(
    name: str,
    categories: list[Category],
    *,
    image_ids: np.ndarray,
    file_names: list[str],
    sizes: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    boxes_xywh: np.ndarray,
    areas: np.ndarray,
    iscrowd: np.ndarray,
    accepted: dict[str, int] | None = None,
    doubts: list[str] | None = None,
) -> AnnotationIndex:
    """Sort boxes by image, and leave out those without area inside their image.

    Args:
        name: the annotation file, for messages.
        categories: of labels 1..C.
        image_ids: int64 [I].
        file_names: of the images, relative to their folder.
        sizes: (height, width) of the images in pixels, [I, 2].
        rows: position of each box's image, int64 [A].
        labels: int64 [A], 1..C.
        boxes_xywh: float64 [A, 4] in pixels; NaN where the file has no box.
        areas: float64 [A]; width x height is taken where it is not finite.
        iscrowd: bool [A].
        accepted: {what the file lacks and what stands for it: how often}.
        doubts: what contradicts itself, in words.
    """
    clipped = clip_boxes(boxes_xywh, sizes[rows])
    finite = finite_boxes(boxes_xywh)
    shorter = np.minimum(clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1])
    has_area = finite & (shorter > 0)
    keep = np.flatnonzero(has_area)
    keep = keep[np.argsort(rows[keep], kind="stable")]
    trainable = shorter[keep] >= 1
    boxes = boxes_xywh.take(keep, axis=0)
    areas = areas[keep]
    name_bytes, name_offsets = _pack_names(file_names)
    return AnnotationIndex(
        annotation_file=name,
        categories=categories,
        image_ids=image_ids,
        sizes=sizes.astype(np.int32),
        name_bytes=name_bytes,
        name_offsets=name_offsets,
        box_offsets=np.searchsorted(rows[keep], np.arange(len(image_ids) + 1)),
        boxes_xywh=boxes,
        clipped_boxes=clipped.astype(np.float32).take(keep, axis=0),
        labels=labels[keep].astype(np.int32),
        areas=np.where(np.abs(areas) < NOT_FINITE, areas, boxes[:, 2] * boxes[:, 3]),
        iscrowd=iscrowd[keep],
        trainable=trainable,
        accepted=accepted or {},
        rejected={
            "not finite": image_ids[rows[~finite]],
            "no area inside the image": image_ids[rows[finite & ~has_area]],
            "thinner than 1 px": image_ids[rows[keep[~trainable]]],
        },
        clipped_ids=image_ids[rows[has_area & _reaches_outside(boxes_xywh, clipped)]],
        doubts=doubts or [],
    )


def finite_boxes(boxes_xywh: np.ndarray) -> np.ndarray:
    """Tell which boxes have four finite numbers of plausible size: bool [A]."""
    finite = np.ones(len(boxes_xywh), bool)
    for column in boxes_xywh.T:
        finite &= np.abs(column) < NOT_FINITE
    return finite


def clip_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Clip boxes [A, 4] to images of `sizes` [A, 2] (height, width); return them as xyxy.

    A box without area inside its image gets x2 <= x1 or y2 <= y1.
    """
    clipped = np.empty_like(boxes_xywh)
    # Column by column: three times as fast.
    for axis, limits in enumerate((sizes[:, 1], sizes[:, 0])):
        start, extent = boxes_xywh[:, axis], boxes_xywh[:, axis + 2]
        clipped[:, axis] = np.maximum(start, 0)
        clipped[:, axis + 2] = np.minimum(start + extent, limits)
    return clipped


def _reaches_outside(boxes_xywh: np.ndarray, clipped: np.ndarray) -> np.ndarray:
    """Tell which boxes lose more than a pixel on a side when they are clipped: bool [A]."""
    outside = np.zeros(len(boxes_xywh), bool)
    for axis in (0, 1):  # column by column, as `clip_boxes`
        start, extent = boxes_xywh[:, axis], boxes_xywh[:, axis + 2]
        outside |= clipped[:, axis] - start > 1
        outside |= start + extent - clipped[:, axis + 2] > 1
    return outside


def _pack_names(names: list[str]) -> tuple[bytes, np.ndarray]:
    encoded = [name.encode() for name in names]
    lengths = [0, *map(len, encoded)]
    return b"".join(encoded), np.cumsum(lengths, dtype=np.int64)
