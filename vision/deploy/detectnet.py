"""What NVIDIA's jetson-inference makes of an exported network: its detectNet, in NumPy.

Sources, of dusty-nv/jetson-inference: c/detectNet.cpp (postProcessSSD_ONNX, clusterDetections,
sortDetections, postProcess), c/detectNet.h (Detection::Intersects and Expand) and
c/tensorConvert.cu (gpuTensorNorm). All numbers are float32, as there.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vision.deploy.detect import Detections, FileDetector, detectnet_input, sample_points

# Defaults of its --threshold and --clustering.
SCORE_THRESHOLD = 0.5
CLUSTERING = 0.75


class Found(NamedTuple):
    """What detectNet shows, the largest first."""

    xyxy: np.ndarray  # float32 [N, 4], pixels
    scores: np.ndarray  # float32 [N]
    labels: np.ndarray  # int64 [N]


def select_detections(
    scores: np.ndarray,
    boxes: np.ndarray,
    image_size: tuple[int, int],
    *,
    class_names: Sequence[str],
    score_threshold: float = SCORE_THRESHOLD,
    clustering: float = CLUSTERING,
) -> Found:
    """Turn the outputs of a network into what detectNet shows.

    Args:
        scores: float32 [N, C+1], the background first.
        boxes: float32 [N, 4], xyxy as shares of the image.
        image_size: (height, width) in pixels.
        class_names: the lines of labels.txt; a class called void is not shown.
        score_threshold: scores from here on count.
        clustering: a box is merged into the first one of its class before it with an intersection
            of more than this share of the larger of both.
    """
    labels = scores[:, 1:].argmax(axis=1) + 1
    best = scores[np.arange(len(scores)), labels]
    is_void = np.array([name == "void" for name in class_names])
    rows = np.flatnonzero((best >= np.float32(score_threshold)) & ~is_void[labels])
    height, width = image_size
    scale = np.array([width, height, width, height], np.float32)
    xyxy, kept_scores, kept_labels = [], [], []
    # In the order of the outputs: what a box is merged into depends on what came before.
    for box, score, label in zip(boxes[rows] * scale, best[rows], labels[rows], strict=True):
        for i, other in enumerate(xyxy):
            if kept_labels[i] == label and _share_of_larger(box, other) > clustering:
                xyxy[i] = np.concatenate(
                    [np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])]
                )
                kept_scores[i] = max(kept_scores[i], score)
                break
        else:
            xyxy.append(box)
            kept_scores.append(score)
            kept_labels.append(label)
    found = Found(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array(kept_scores, np.float32),
        np.array(kept_labels, np.int64),
    )
    sides = found.xyxy[:, 2:] - found.xyxy[:, :2]
    largest_first = np.argsort(-sides[:, 0] * sides[:, 1], kind="stable")
    return _clip(Found(*(column[largest_first] for column in found)), image_size)


class DetectNet:
    """A file of the target jetson, run as on the device but for TensorRT: here it is onnxruntime.

    Args:
        detector: the file.
        score_threshold: its --threshold.
        clustering: its --clustering.
        resize: to (height, width); the device samples points.
    """

    def __init__(
        self,
        detector: FileDetector,
        *,
        score_threshold: float = SCORE_THRESHOLD,
        clustering: float = CLUSTERING,
        resize: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = sample_points,
    ):
        if detector.about["target"] != "jetson":
            raise ValueError(
                f"detectNet reads files of the target jetson, this one is for "
                f"{detector.about['target']}: export it with --target jetson"
            )
        self._detector = detector
        self._score_threshold = score_threshold
        self._clustering = clustering
        self._resize = resize

    def predict(self, image: np.ndarray) -> Detections:
        """Return what detectNet shows in uint8 [H, W, 3] RGB."""
        inputs = detectnet_input(self._resize(image, self._detector.about["image_size"]))
        scores, boxes = self._detector.raw(inputs)
        found = select_detections(
            scores[0],
            boxes[0],
            image.shape[:2],
            class_names=self._detector.names,
            score_threshold=self._score_threshold,
            clustering=self._clustering,
        )
        return self._detector.name(*found)


def _share_of_larger(a: np.ndarray, b: np.ndarray) -> np.float32:
    """The intersection of two boxes, as a share of the larger one; boxes without area have none."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (sides < 0).any():
        return np.float32(0)
    larger = max((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return sides[0] * sides[1] / larger if larger > 0 else np.float32(0)


def _clip(found: Found, image_size: tuple[int, int]) -> Found:
    """Left and top are at least 0; right and bottom that reach the size become the last pixel."""
    xyxy = found.xyxy.copy()
    xyxy[:, :2] = xyxy[:, :2].clip(0)
    for column, size in ((2, image_size[1]), (3, image_size[0])):
        xyxy[xyxy[:, column] >= size, column] = size - 1
    return found._replace(xyxy=xyxy)
