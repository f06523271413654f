"""Ground truth and detections of a whole data set, as flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex


@dataclass
class GroundTruth:
    """The annotated boxes of a data set; those of an image in the order of the annotation file."""

    num_images: int
    num_classes: int  # without the background
    image_index: np.ndarray  # int64 [A], from 0
    labels: np.ndarray  # int64 [A], 1..C
    boxes_xywh: np.ndarray  # float64 [A, 4], pixels
    areas: np.ndarray  # float64 [A]: the annotation's `area`, usually that of the segmentation
    iscrowd: np.ndarray  # bool [A]
    # bool [I, C + 1]: the classes that nobody marked in an image; None: all were, everywhere
    unannotated: np.ndarray | None = None

    def counted(self, detections: "Detections") -> "Detections":
        """Leave out detections of classes that nobody marked in their image."""
        if self.unannotated is None:
            return detections
        return detections.take(~self.unannotated[detections.image_index, detections.labels])


@dataclass
class Detections:
    """Detected boxes of any number of images, in any order."""

    image_index: np.ndarray  # int64 [D], position of the image in the data set
    labels: np.ndarray  # int64 [D], 1..C
    boxes_xywh: np.ndarray  # float64 [D, 4], pixels of the image on disk
    scores: np.ndarray  # float64 [D]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray | slice) -> "Detections":
        """Return the detections at some rows: int [N], bool [D], or a slice, which gives views."""
        return Detections(
            self.image_index[rows], self.labels[rows], self.boxes_xywh[rows], self.scores[rows]
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> "Detections":
        """Join the detections of several batches or processes; `parts` may be empty."""
        return cls(
            image_index=np.concatenate([np.zeros(0, np.int64), *(p.image_index for p in parts)]),
            labels=np.concatenate([np.zeros(0, np.int64), *(p.labels for p in parts)]),
            boxes_xywh=np.concatenate([np.zeros((0, 4)), *(p.boxes_xywh for p in parts)]),
            scores=np.concatenate([np.zeros(0), *(p.scores for p in parts)]),
        )


class DetectionsBuffer:
    """Collects detections batch by batch, in arrays that double their size when they are full.

    A list of small arrays, one for each batch, would fragment the heap: they lie between the
    network's large arrays, and the memory freed around them cannot be used again.
    """

    def __init__(self, capacity: int = 1 << 18):
        self._detections = Detections(
            image_index=np.empty(capacity, np.int64),
            labels=np.empty(capacity, np.int64),
            boxes_xywh=np.empty((capacity, 4)),
            scores=np.empty(capacity),
        )
        self._count = 0

    def add(self, part: Detections) -> None:
        """Append the detections of a batch."""
        end = self._count + len(part)
        while end > len(self._detections):
            self._detections = Detections.concatenate([self._detections] * 2)
        for name, column in vars(self._detections).items():
            column[self._count : end] = getattr(part, name)
        self._count = end

    def gathered(self) -> Detections:
        """Return all detections added so far, as views."""
        return self._detections.take(slice(self._count))


def ground_truth_from_index(
    sources: AnnotationIndex | Sequence[AnnotationIndex], image_indices: np.ndarray | None = None
) -> GroundTruth:
    """Collect the boxes of the images of a CocoDetection, in its order.

    Args:
        sources: one or more annotation files, as the data set has them.
        image_indices: the images that the data set uses, counted over all sources; None: all.

    Returns:
        Every valid box of the files, also those too thin for training.
    """
    sources = [sources] if isinstance(sources, AnnotationIndex) else list(sources)
    first_image = np.cumsum([0, *map(len, sources)])
    image_index = np.concatenate(
        [
            start + source.images_of_boxes()
            for start, source in zip(first_image[:-1], sources, strict=True)
        ]
    )
    num_images = int(first_image[-1])
    rows = np.arange(len(image_index))
    num_classes = len(sources[0].categories)
    unannotated = None
    if any(source.unannotated for source in sources):
        unannotated = _unannotated(sources, num_classes)
    if image_indices is not None:
        unannotated = None if unannotated is None else unannotated[image_indices]
        position = np.full(num_images, -1)
        position[image_indices] = np.arange(len(image_indices))
        image_index, num_images = position[image_index], len(image_indices)
        rows = np.flatnonzero(image_index >= 0)
        rows = rows[np.argsort(image_index[rows], kind="stable")]
    return GroundTruth(
        num_images=num_images,
        num_classes=num_classes,
        image_index=image_index[rows],
        labels=np.concatenate([source.labels for source in sources])[rows].astype(np.int64),
        boxes_xywh=np.concatenate([source.boxes_xywh for source in sources])[rows],
        areas=np.concatenate([source.areas for source in sources])[rows],
        iscrowd=np.concatenate([source.iscrowd for source in sources])[rows],
        unannotated=unannotated,
    )


def _unannotated(sources: Sequence[AnnotationIndex], num_classes: int) -> np.ndarray:
    """bool [I, C + 1]: the classes that nobody looked for."""
    rows = np.zeros((len(sources), num_classes + 1), bool)
    for row, source in zip(rows, sources, strict=True):
        row[list(source.unannotated)] = True
    return np.repeat(rows, list(map(len, sources)), axis=0)
