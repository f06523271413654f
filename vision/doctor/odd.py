"""The images that differ most from the others: where mistakes of a data set are seen first."""

from collections.abc import Callable

import numpy as np

from vision.doctor.check import CheckedData
from vision.report.gallery import Example

NUM_ODD = 20


def oddest(data: CheckedData) -> list[Example]:
    """The images that lie furthest from the median in one respect, each with that respect.

    Distances are in units of the median distance from the median, so that no respect outweighs the
    others.
    """
    is_read = data.looks.is_read()
    respects = _respects(data)
    if not is_read.any():
        return []
    table = np.stack([values for _, values, _ in respects])
    middle = np.median(table[:, is_read], axis=1, keepdims=True)
    spread = np.median(np.abs(table[:, is_read] - middle), axis=1, keepdims=True)
    mean_spread = np.abs(table[:, is_read] - middle).mean(axis=1, keepdims=True)
    distance = np.abs(table - middle) / np.maximum(np.maximum(spread, mean_spread), 1e-6)
    distance[:, ~is_read] = 0
    chosen = np.argsort(-distance.max(axis=0), kind="stable")[:NUM_ODD]
    sizes = np.concatenate([source.index.sizes for source in data.splits.values()])
    examples = []
    for image in chosen.tolist():
        which = int(distance[:, image].argmax())
        name, values, show = respects[which]
        caption = f"{name}: {show(values[image])}, the median is {show(middle[which, 0])}"
        height, width = sizes[image]
        whole = np.array([[0, 0, width, height]], float)  # the picture is not cut
        score = float(distance[which, image])
        examples.append(Example(image, score, caption, _boxes(data, image), whole))
    return examples


def _respects(data: CheckedData) -> list[tuple[str, np.ndarray, Callable[[float], str]]]:
    """(name, value of each image, how a value is shown); ratios and sizes as logarithms."""
    sizes = np.concatenate([source.index.sizes for source in data.splits.values()]).astype(float)
    counts = np.concatenate([np.diff(s.index.box_offsets) for s in data.splits.values()])
    thumbnails = data.looks.thumbnails.reshape(len(sizes), -1).astype(np.float32)
    return [
        ("width over height", np.log(sizes[:, 1] / sizes[:, 0]), lambda x: f"{np.exp(x):.2f}"),
        ("pixels", np.log(sizes.prod(axis=1)), lambda x: f"{np.exp(x):,.0f}"),
        ("boxes", np.log1p(counts), lambda x: f"{np.expm1(x):.0f}"),
        ("brightness of 255", thumbnails.mean(axis=1), lambda x: f"{x:.0f}"),
        ("contrast of 255", thumbnails.std(axis=1), lambda x: f"{x:.0f}"),
        ("largest box over the image", _largest(data), lambda x: f"{x:.3f}"),
    ]


def _largest(data: CheckedData) -> np.ndarray:
    """The largest box's share of its image's area, [I]; 0 without boxes."""
    parts = []
    for index, _ in data.splits.values():
        boxes = index.clipped_boxes
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        largest = np.zeros(len(index))
        np.maximum.at(largest, index.images_of_boxes(), areas)
        parts.append(largest / index.sizes.prod(axis=1))
    return np.concatenate(parts)


def _boxes(data: CheckedData, image: int) -> np.ndarray:
    name = data.split_of(image)
    index, row = data.splits[name].index, image - data.starts[name]
    return index.boxes_xywh[index.box_offsets[row] : index.box_offsets[row + 1]]
