#!/usr/bin/env python3
"""Detect objects in images with a network that export_ssd.py wrote.

    python detect.py photo.jpg other.png folder/
    python detect.py --model mb2-ssd-lite-onnx.onnx --threshold 0.6 --json photo.jpg

One file for the device: it needs Python, numpy, OpenCV or Pillow, and the model's runtime:
onnxruntime for an .onnx file, openvino for an .xml file with its .bin, ai-edge-litert for a .tflite
file. Without --model it takes the one model in its own folder. In a program of yours:

    detector = FileDetector("mb2-ssd-lite-onnx.onnx")
    found = detector.predict("photo.jpg")      # or uint8 [H, W, 3] RGB, or a list of either
    print(found.names, found.confidence, found.xyxy)
"""

import argparse
import json
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MOST_BYTES = 1 << 28  # of a file
MOST_PIXELS = 1 << 28  # of an image; it takes 0.8 GB
# only tiles:
MAX_TILES = 16  # along each side
TILE_EDGE = 0.01  # of a tile's side: how near to an edge a box counts as cut by it
# end
# only raw_heads:
NUM_CANDIDATES = 400  # pairs of a prior and a class that decode_heads looks at
NUM_DETECTIONS = 100  # that it gives: as many as count in COCO
LOWEST_SCORE = 0.01  # of a box that has a vote on where others are
# end
# only openvino:
PROPERTIES_IN_XML = "ssd_training_toolkit"
# end
# only tflite:
METADATA_IN_TFLITE = "ssd_training_toolkit"
# With more the detection operator would leave out a class, by a fault of LiteRT's.
MOST_TFLITE_THREADS = 16
# end
Image = np.ndarray | str | os.PathLike


@dataclass
class Detections:
    """The objects found in an image, the best first.

    Attributes:
        xyxy: float32 [N, 4], corners in pixels of the image.
        confidence: float32 [N], scores in 0..1.
        class_id: int64 [N], lines of labels.txt: 0 would be the background.
        names: N class names.
        category_id: int64 [N], the classes' ids in the annotations that were trained on.
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray
    names: list[str]
    category_id: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)

    def to_coco(self, image_id: int) -> list[dict]:
        """Return COCO results: dicts of image_id, category_id, bbox (x, y, w, h) and score."""
        boxes = self.xyxy.astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(self.category_id.tolist(), boxes.tolist(), self.confidence.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in rows
        ]

    def to_supervision(self) -> object:
        """Return a `supervision.Detections`; needs `pip install supervision`."""
        import supervision

        return supervision.Detections(
            xyxy=self.xyxy,
            confidence=self.confidence,
            class_id=self.class_id,
            data={"class_name": np.array(self.names, dtype=str)},
        )


class FileDetector:
    """A detector in a file that export_ssd.py wrote.

    Args:
        path: .onnx, .tflite, or .xml with its .bin beside it.
        threshold: lowest score of a detection; None: what the file recommends, for each class.
        threads: of the runtime; 0: one for each core.
        # only tiles:
        tiles: look at each image whole and in so many overlapping tiles along each side; None: as
            the file says.
        # end

    Attributes:
        about: what the file says of itself, as in the JSON file beside it.
        raw: from the file's input to its outputs, as both are.

    Raises:
        ValueError: not such a file.
        OSError: it cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        threshold: float | None = None,
        threads: int = 0,
        # only tiles:
        tiles: int | None = None,
        # end
    ):
        suffix = Path(path).suffix.lower()
        if suffix not in RUNTIMES:
            raise ValueError(f"{path}: not one of {', '.join(RUNTIMES)}")
        self.path = path
        self.raw = RUNTIMES[suffix](check_file(path), threads=threads)
        try:
            self.about = _read_about(self.raw.properties)
            classes = self.about["classes"]
            scores = [item.get("threshold", self.about["score_threshold"]) for item in classes]
            if threshold is not None:
                scores = [threshold] * len(classes)
            self._thresholds = np.array([1.0, *scores], float)  # by label
            self.names = ["BACKGROUND", *(item["name"] for item in classes)]
            ids = [item["category_id"] for item in classes]
            self._category_ids = np.array([0, *ids], np.int64)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError):
            raise ValueError(f"{path}: not a detector that export_ssd.py wrote") from None
        # only tiles:
        self.tiles = self.about["tiles"] if tiles is None else tiles
        if not isinstance(self.tiles, int) or not 1 <= self.tiles <= MAX_TILES:
            raise ValueError(f"{path}: tiles {self.tiles}; 1 to {MAX_TILES} are possible")
        if self.tiles > self.about["tiles"] > 1:
            import logging

            logging.getLogger(__name__).warning(
                "%s: in %d x %d tiles objects are larger than in the %d x %d that it was trained "
                "with; expect a lower AP", path, *[self.tiles] * 2, *[self.about["tiles"]] * 2,
            )  # fmt: skip
        # end

    def predict(self, images: Image | Sequence[Image]) -> Detections | list[Detections]:
        """Detect objects in one image (a path, or uint8 [H, W, 3] RGB), or in each of a list."""
        if not isinstance(images, (np.ndarray, str, os.PathLike)):
            return [self.predict(image) for image in images]
        image = images if isinstance(images, np.ndarray) else read_image(images)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"an image is uint8 [H, W, 3] in RGB, not {image.dtype} {list(image.shape)}"
            )
        # only tiles:
        if self.tiles > 1:
            rectangles = tile_rectangles(image.shape[:2], self.tiles)
            found = [self._find(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in rectangles]
            return self.name(*join_views(found, rectangles, self.about["iou_threshold"]))
        # end
        return self.name(*self._find(image))

    def _find(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the network on an image or a tile; returns boxes in its pixels, scores, labels."""
        resized = self.resize(image)
        try:
            boxes, scores, labels = self.run(resized)
            scores, labels = scores.astype(np.float32), labels.astype(np.int64)
            boxes = boxes.astype(np.float32).reshape(len(scores), 4)
            labels = labels.reshape(len(scores))
        except Exception as error:  # each runtime has types of its own
            raise ValueError(f"{self.path}: cannot be run: {_in_one_line(error)}") from error
        strange = labels[(labels < 0) | (labels >= len(self.names))]
        if len(strange):
            raise ValueError(
                f"{self.path}: names {len(self.names) - 1} classes, and found one of the number "
                f"{strange[0]}; its description was edited"
            )
        found = scores >= self._thresholds[labels]
        height, width = image.shape[:2]
        sides = np.array([width, height, width, height], np.float32)
        boxes = boxes[found] * sides
        if not np.isfinite(boxes).all():
            raise ValueError(f"{self.path}: found boxes that are no numbers; export it again")
        return boxes, scores[found], labels[found]

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Bring uint8 [H, W, 3] to the size of the input, in the way that was trained with."""
        return RESIZE[self.about["resize"]](image, self.about["image_size"])

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the network on uint8 [H, W, 3] of its input's size.

        Returns:
            boxes float32 [N, 4], xyxy in 0..1, scores float32 [N], best first, labels int64 [N].
        """
        # only jetson:
        if self.about["target"] == "jetson":
            return self._run_jetson(image)
        # end
        # only tflite:
        if self.about["target"].startswith("tflite"):
            return self._run_tflite(image)
        # end
        # only frigate:
        if self.about["frigate"]:
            ((rows,),) = self.raw(image[None, :, :, ::-1])[0]  # in BGR, see export_ssd.py --frigate
            found = rows[:, 2] > 0  # zeros fill up the rest
            return rows[found, 3:], rows[found, 2], rows[found, 1].astype(int)
        # end
        boxes, scores, labels = (output[0] for output in self.raw(image[None]))
        num_found = np.count_nonzero(scores)  # zeros fill up the rest
        return boxes[:num_found], scores[:num_found], labels[:num_found]

    # only tflite:
    def _run_tflite(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # only raw_heads:
        if self.about["raw_heads"]:
            settings = self.about["iou_threshold"], self.about["box_voting"]
            return decode_heads(*self.raw(image[None]), *settings)
        # end
        boxes, classes, scores, count = self.raw(image[None])
        found = slice(int(count[0]))  # boxes are y1, x1, y2, x2; classes are without the background
        corners = boxes[0, found][:, [1, 0, 3, 2]].clip(0, 1)
        return corners, scores[0, found], classes[0, found].astype(int) + 1

    # end
    # only jetson:
    def _run_jetson(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores, boxes = self.raw(detectnet_input(image))
        labels = scores[0, :, 1:].argmax(axis=1) + 1
        best = scores[0, np.arange(len(labels)), labels]
        order = np.argsort(-best, kind="stable")
        order = order[best[order] >= self._thresholds[labels[order]]]
        order = order[suppress(boxes[0, order], labels[order], self.about["iou_threshold"])]
        return boxes[0, order], best[order], labels[order]

    # end
    def name(self, xyxy: np.ndarray, confidence: np.ndarray, labels: np.ndarray) -> Detections:
        """Return detections with the names and ids of their labels."""
        return Detections(
            xyxy=xyxy.astype(np.float32),
            confidence=confidence.astype(np.float32),
            class_id=labels.astype(np.int64),
            names=[self.names[label] for label in labels],
            category_id=self._category_ids[labels],
        )


# What a file says of itself, and what is read where it does not say so; None: it has to.
ABOUT = {
    "target": None,
    "network": '"exported file"',
    "classes": None,
    "image_size": None,
    "score_threshold": None,
    "iou_threshold": None,
    "resize": '"linear"',
    "frigate": "false",
    "raw_heads": "false",
    "tiles": "1",
    "box_voting": "0",
}


def _read_about(properties: dict[str, str]) -> dict:
    """Decode what a file says of itself; what is not said or of another type raises any error."""
    about = {key: json.loads(properties.get(key, default)) for key, default in ABOUT.items()}
    height, width = about["image_size"] = tuple(map(int, about["image_size"]))
    if not (0 < height < 10_000 and 0 < width < 10_000 and about["resize"] in RESIZE):
        raise ValueError("another input")
    for key in ("score_threshold", "iou_threshold", "box_voting"):
        if not isinstance(about[key], (int, float)):
            raise TypeError("no number")
    if not isinstance(about["tiles"], int):
        raise TypeError("no count")
    texts = [about["target"], about["network"], *(item["name"] for item in about["classes"])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("no text")
    return about


# only jetson:
def detectnet_input(image: np.ndarray) -> np.ndarray:
    """Normalise uint8 [H, W, 3] to what the target jetson takes, float32 [1, 3, H, W] in -1..1."""
    scaled = image.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


# end
def check_file(path: str | os.PathLike) -> Path:
    """Refuse a pipe, which would be waited for, a device, and a file that fills the memory."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a regular file")
    if status.st_size > MOST_BYTES:
        raise ValueError(
            f"{path}: it has {status.st_size:,} bytes, at most {MOST_BYTES:,} are read"
        )
    return Path(path)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3] RGB, turned upright by its EXIF orientation."""
    data = check_file(path).read_bytes()
    try:
        return _decode_with_opencv(data) if find_spec("cv2") else _decode_with_pillow(data)
    except Exception as error:  # damaged bytes make a decoder raise any type
        raise ValueError(f"{path}: not a readable image ({_in_one_line(error)})") from error


def _decode_with_opencv(data: bytes) -> np.ndarray:
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("its format is unknown, or it is damaged")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _decode_with_pillow(data: bytes) -> np.ndarray:
    import io

    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # it refuses those of twice as many
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


# only linear:
def resize_linear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretch uint8 [H, W, 3] to (height, width), linearly between the nearest pixels.

    As in training, and not as Pillow's resize, which averages when it shrinks.
    """
    if find_spec("cv2"):
        import cv2

        return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    top, bottom, share_y = _neighbours(image.shape[0], size[0])
    left, right, share_x = _neighbours(image.shape[1], size[1])
    pixels = image[np.concatenate([top, bottom])].astype(np.float32)  # only the rows that count
    rows = pixels[: size[0]] + (pixels[size[0] :] - pixels[: size[0]]) * share_y[:, None, None]
    columns = rows[:, left] + (rows[:, right] - rows[:, left]) * share_x[:, None]
    return np.rint(columns).astype(np.uint8)


def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each target pixel the source pixels around its centre, and the share of the second."""
    place = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    first = np.floor(place).astype(int)
    return first, np.minimum(first + 1, source - 1), (place - first).astype(np.float32)


# end
# only point:
def sample_points(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [H, W, 3] to (height, width) as detectNet does: one pixel each, no filter."""
    rows, columns = (
        (np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))).astype(int)
        for old, new in zip(image.shape[:2], size, strict=True)
    )
    return image[rows[:, None], columns]


# end
RESIZE = {
    # only linear:
    "linear": resize_linear,
    # end
    # only point:
    "point": sample_points,
    # end
}


# only tiles:
def tile_rectangles(size: tuple[int, int], tiles: int) -> list[tuple[int, int, int, int]]:
    """Return the whole photo of (height, width), then its tiles row by row, as x1, y1, x2, y2.

    As in training (vision/ops/tiles.py): `tiles` a side, each shares a fifth with the next.
    """
    height, width = size
    columns, rows = _places(width, tiles), _places(height, tiles)
    return [(0, 0, width, height), *((x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns)]


def _places(length: int, tiles: int) -> list[tuple[int, int]]:
    side = -(-5 * length // (4 * tiles + 1))  # rounded up
    starts = [i * (length - side) // (tiles - 1) for i in range(tiles)]
    return [(start, start + side) for start in starts]


def join_views(
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    rectangles: list[tuple[int, int, int, int]],
    iou_threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join what was found in the views of a photo.

    A box that ends at a tile's inner edge is left out: what is cut there is whole in the next tile,
    or in the whole photo.

    Args:
        found: for each view boxes [N, 4] in its pixels, scores [N] and labels [N].
        rectangles: the views, from `tile_rectangles`.
        iou_threshold: of the suppression.
    """
    views = np.repeat(np.array(rectangles, np.float32), [len(f[1]) for f in found], axis=0)
    boxes = np.concatenate([f[0] for f in found]) + np.tile(views[:, :2], 2)
    scores, labels = (np.concatenate([f[k] for f in found]) for k in (1, 2))
    is_inner = views != np.array(rectangles[0])
    margin = np.float32(TILE_EDGE) * (views[:, 2:] - views[:, :2])
    at_low = is_inner[:, :2] & (boxes[:, :2] <= views[:, :2] + margin)
    at_high = is_inner[:, 2:] & (boxes[:, 2:] >= views[:, 2:] - margin)
    order = np.argsort(-scores, kind="stable")
    order = order[~(at_low | at_high).any(axis=1)[order]]
    order = order[suppress(boxes[order], labels[order], iou_threshold)]
    return boxes[order], scores[order], labels[order]


# end
# only jetson, raw_heads, tiles:
def suppress(boxes: np.ndarray, labels: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression of boxes [N, 4], best first, each class on its own.

    Returns:
        int64: the places of those that stay.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    area = (x2 - x1) * (y2 - y1)
    waiting, kept = np.arange(len(boxes)), []
    while len(waiting):  # each round keeps one box and drops its duplicates
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        width = np.minimum(x2[best], x2[waiting]) - np.maximum(x1[best], x1[waiting])
        height = np.minimum(y2[best], y2[waiting]) - np.maximum(y1[best], y1[waiting])
        overlap = width.clip(0) * height.clip(0)
        is_same = overlap > iou_threshold * (area[best] + area[waiting] - overlap)
        waiting = waiting[~(is_same & (labels[waiting] == labels[best]))]
    return np.array(kept, int)


# end
# only raw_heads:
def decode_heads(
    scores: np.ndarray,
    encodings: np.ndarray,
    priors: np.ndarray,
    iou_threshold: float,
    voting_iou: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn a network's raw outputs into detections.

    Args:
        scores: [1, P, C+1], the background first.
        encodings: [1, P, 4], ty, tx, th, tw.
        priors: [P, 4], cy, cx, h, w as shares of the image's sides.
        iou_threshold: of the suppression.
        voting_iou: of the box voting; 0: none.

    Returns:
        boxes float32 [N, 4], xyxy in 0..1, scores [N], best first, labels [N].
    """
    scores = scores[0, :, 1:]
    best = np.argsort(-scores, axis=None, kind="stable")[:NUM_CANDIDATES]
    rows, classes = np.unravel_index(best, scores.shape)
    centers = priors[rows, :2] + encodings[0, rows, :2] / 10 * priors[rows, 2:]
    half = priors[rows, 2:] * np.exp(encodings[0, rows, 2:] / 5) / 2
    boxes = np.concatenate([centers - half, centers + half], axis=1)[:, [1, 0, 3, 2]].clip(0, 1)
    best_scores = scores[rows, classes]
    kept = suppress(boxes, classes, iou_threshold)[:NUM_DETECTIONS]
    moved = vote(boxes, best_scores, classes, kept, voting_iou) if voting_iou else boxes[kept]
    return moved, best_scores[kept], classes[kept] + 1


def vote(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, kept: np.ndarray, voting_iou: float
) -> np.ndarray:
    """Return the kept ones of boxes [N, 4], at the mean of those of their class around them.

    Weighted by score, over all with a higher IoU than `voting_iou` (Gidaris and Komodakis 2015).
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    sides = np.minimum(high[kept, None], high) - np.maximum(low[kept, None], low)
    intersection = sides.clip(0).prod(axis=2)  # [K, N]
    area = (high - low).prod(axis=1)
    votes = intersection > voting_iou * (area[kept, None] + area - intersection)
    votes &= (labels[kept, None] == labels) & (scores > LOWEST_SCORE)
    weights = votes * scores
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights @ boxes / np.maximum(total, LOWEST_SCORE), boxes[kept])


# end
# What runs a file. Calling it maps the file's input to its outputs; `properties`: JSON by name.
# only onnx:
class OnnxRuntime:
    """An .onnx file in onnxruntime."""

    package = "onnxruntime"

    def __init__(self, path: Path, *, threads: int):
        onnxruntime = _import(self.package, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # it prints names from the file; errors are raised too
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of one of a dozen types
            raise _cannot_load(path, f"onnxruntime {onnxruntime.__version__}", error) from error
        self.properties = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, inputs: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {self._session.get_inputs()[0].name: inputs})


# end
# only openvino:
class OpenVino:
    """An .xml file, and the .bin file beside it, in OpenVINO."""

    package = "openvino"

    def __init__(self, path: Path, *, threads: int):
        openvino = _import(self.package, path)
        check_file(path.with_suffix(".bin"))  # its own error for an absent file is a page long
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Otherwise it computes in bfloat16 where the processor can.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            model = openvino.Core().read_model(path)
            self._run = openvino.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise _cannot_load(path, f"openvino {openvino.__version__}", error) from None
        has_properties = model.has_rt_info(PROPERTIES_IN_XML)
        self.properties = model.get_rt_info(PROPERTIES_IN_XML).value if has_properties else {}

    def __call__(self, inputs: np.ndarray) -> list[np.ndarray]:
        return list(self._run(np.ascontiguousarray(inputs)).values())


# end
# only tflite:
class TfLite:
    """A .tflite file in LiteRT (TensorFlow Lite)."""

    package = "ai_edge_litert"

    def __init__(self, path: Path, *, threads: int):
        _import(self.package, path)
        from ai_edge_litert.interpreter import Interpreter

        content = path.read_bytes()
        try:
            self._interpreter = Interpreter(
                model_content=content,
                num_threads=min(threads or os.cpu_count(), MOST_TFLITE_THREADS),
            )
            self._interpreter.allocate_tensors()
            self.properties = _tflite_properties(content)
        except Exception as error:  # damaged bytes make its reader raise any type
            raise _cannot_load(path, self.package, error) from error

    def __call__(self, inputs: np.ndarray) -> list[np.ndarray]:
        (entry,) = self._interpreter.get_input_details()
        self._interpreter.set_tensor(entry["index"], inputs)
        self._interpreter.invoke()
        outputs = self._interpreter.get_output_details()
        return [self._interpreter.get_tensor(output["index"]) for output in outputs]


def _tflite_properties(content: bytes) -> dict[str, str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == METADATA_IN_TFLITE.encode():
            about = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            return {key: json.dumps(value) for key, value in about.items()}
    return {}


# end
RUNTIMES = {
    # only onnx:
    ".onnx": OnnxRuntime,
    # end
    # only openvino:
    ".xml": OpenVino,
    # end
    # only tflite:
    ".tflite": TfLite,
    # end
}


def _cannot_load(path: Path, runtime: str, error: Exception) -> ValueError:
    """The error for a file that is damaged, or has operators that are newer than the runtime."""
    return ValueError(
        f"{path}: {runtime} cannot load it: export it again, or install a newer runtime; it says: "
        f"{_in_one_line(error)}"
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _printable(text: object) -> str:
    """Escape what a terminal would take for a command, or cannot show: names may have it."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _import(package: str, path: Path):
    if find_spec(package) is None:
        raise ValueError(
            f"{path}: {sys.executable} lacks {package}: pip install {package.replace('_', '-')}"
        )
    return import_module(package)


def main(argv: list[str] | None = None) -> int:
    """Print the detections of each image; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--model", help="default: the one in this script's folder")
    parser.add_argument("--threshold", type=float, help="lowest score; default: the file's")
    # only tiles:
    parser.add_argument(
        "--tiles", type=int, help="N x N tiles to look at besides the whole; default: the file's"
    )
    # end
    parser.add_argument("--json", action="store_true", help="one line of JSON for each image")
    args = parser.parse_args(argv)
    options = {"threshold": args.threshold}
    # only tiles:
    if args.tiles is not None and not 1 <= args.tiles <= MAX_TILES:
        parser.error(f"--tiles must be 1 to {MAX_TILES}")
    options["tiles"] = args.tiles
    # end
    try:
        detector = FileDetector(args.model or _model_beside(), **options)
        code = _detect(detector, _find_images(args.images), as_json=args.json)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # nobody reads on, as behind "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(_printable(f"error: {error}"), file=sys.stderr)
        return 1


def _detect(detector: FileDetector, paths: list[Path], *, as_json: bool) -> int:
    code = 0
    for path in paths:
        try:
            found = detector.predict(path)
        except (ValueError, OSError) as error:  # the other images are none the worse for it
            print(_printable(f"error: {error}"), file=sys.stderr)
            code = 1
            continue
        rows = zip(found.names, found.confidence.tolist(), found.xyxy.tolist(), strict=True)
        rows = [
            {"name": n, "score": round(s, 4), "xyxy": np.round(b, 1).tolist()} for n, s, b in rows
        ]
        if as_json:
            print(json.dumps({"image": str(path), "detections": rows}))
            continue
        print(_printable(f"{path}: {len(rows)} found"))
        for row in rows:
            print(_printable(f"  {row['name']} {row['score']:.2f} {row['xyxy']}"))
    return code


def _model_beside() -> Path:
    folder = Path(__file__).resolve().parent
    files = sorted(file for file in folder.iterdir() if file.suffix in RUNTIMES)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or f"no {' or '.join(RUNTIMES)} file"
        raise ValueError(f"{folder}: {names} there; say which with --model FILE")
    return files[0]


def _find_images(arguments: list[str]) -> list[Path]:
    paths = []
    for path in map(Path, arguments):
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        paths += [p for p in inside if p == path or p.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise ValueError(f"{', '.join(arguments)}: no images in it")
    return paths


if __name__ == "__main__":
    raise SystemExit(main())
