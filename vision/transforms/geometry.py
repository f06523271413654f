"""Geometric augmentation: expand, IoU crop and flip combined to one rectangle and one resize."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from vision.ops.tiles import LEAST_INSIDE, share_inside


class View(NamedTuple):
    """The rectangle of source pixels that fills the output; it may extend beyond the image."""

    x1: int
    y1: int
    x2: int
    y2: int


class Placement(NamedTuple):
    """The visible rectangle of the source, and the output's rectangle that it is resized to."""

    source: View
    output: View


@dataclass(frozen=True)
class RandomExpand:
    """Zoom out: place the image at random on a canvas with sides up to `max_ratio` times as long.

    SSD paper, section 3.6 ("data augmentation for small object accuracy").
    """

    max_ratio: float = 4.0
    probability: float = 0.5

    def __call__(self, view: View, rng: np.random.Generator) -> View:
        """Return a view around `view`, which reaches outside the image, or `view` itself."""
        if rng.random() >= self.probability:
            return view
        ratio = rng.uniform(1.0, self.max_ratio)
        width, height = view.x2 - view.x1, view.y2 - view.y1
        canvas_width, canvas_height = round(ratio * width), round(ratio * height)
        left = int(rng.integers(canvas_width - width + 1))
        top = int(rng.integers(canvas_height - height + 1))
        return View(
            view.x1 - left,
            view.y1 - top,
            view.x1 - left + canvas_width,
            view.y1 - top + canvas_height,
        )


@dataclass(frozen=True)
class RandomIouCrop:
    """Zoom in: crop a patch with a minimum IoU with some box, or keep the whole view.

    SSD paper, section 2.2, sampled as in its Caffe code: for each minimum IoU, `trials` patches are
    drawn, and the first that fits is a candidate; then one of the candidates and the whole view is
    chosen, all equally likely. A patch fits if some box has its centre in the patch and at least
    that IoU with it. Unlike in Caffe, and as in the PyTorch ports, minimum IoU 0 also needs a
    centre, so a crop always keeps a box.

    Attributes:
        min_ious: the minimum IoUs; the paper's list, with 0 for its "randomly sample a patch".
        min_size: shortest side of a patch as a fraction of the same side of the view.
        max_aspect: a patch's width / height in pixels lies in [1 / max_aspect, max_aspect].
        trials: random patches for each minimum IoU.
    """

    min_ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    min_size: float = 0.3
    max_aspect: float = 2.0
    trials: int = 50

    def __call__(self, view: View, boxes: np.ndarray, rng: np.random.Generator) -> View:
        """Choose a patch of `view`, given `boxes` [N, 4] xyxy in source pixels, N >= 1."""
        crops = self._sample(view, rng)  # [4, K * T]
        least = np.repeat(np.asarray(self.min_ious, np.float32), self.trials)
        fits = (self._best_iou(crops, boxes) >= least).reshape(-1, self.trials)
        candidates = np.flatnonzero(fits.any(axis=1))
        choice = rng.integers(len(candidates) + 1)
        if choice == len(candidates):
            return view
        row = candidates[choice]
        return View(*(int(edge) for edge in crops[:, row * self.trials + fits[row].argmax()]))

    def _sample(self, view: View, rng: np.random.Generator) -> np.ndarray:
        """Draw random whole-pixel patches [4, K * T] of the view, of any aspect ratio and IoU."""
        draws = rng.random((4, len(self.min_ious) * self.trials))
        origin = np.array(view[:2])[:, None]
        length = np.array([view.x2 - view.x1, view.y2 - view.y1])[:, None]
        share = self.min_size + (1 - self.min_size) * draws[:2]
        side = np.rint(np.maximum(share * length, 1))
        first = origin + np.floor(draws[2:] * (length - side + 1))
        return np.concatenate([first, first + side]).astype(np.float32)

    def _best_iou(self, crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return each patch's largest IoU with a box centred in it: [M].

        -1 if there is no such box, or if the patch's aspect ratio is out of range.
        """
        x1, y1, x2, y2 = crops
        # Boxes are rows, patches columns: NumPy is fast along the last axis, the longer one here.
        bx1, by1, bx2, by2 = boxes.astype(np.float32).T[:, :, None]
        width = np.minimum(x2, bx2) - np.maximum(x1, bx1)  # [N, M]
        height = np.minimum(y2, by2) - np.maximum(y1, by1)
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        crop_width, crop_height = x2 - x1, y2 - y1
        iou = overlap / (crop_width * crop_height + (bx2 - bx1) * (by2 - by1) - overlap)
        x, y = (bx1 + bx2) / 2, (by1 + by2) / 2
        iou[(x < x1) | (x > x2) | (y < y1) | (y > y2)] = -1.0
        best = iou.max(axis=0)
        longer = np.maximum(crop_width, crop_height)
        best[longer > self.max_aspect * np.minimum(crop_width, crop_height)] = -1.0
        return best


def place_view(view: View, source_size: tuple[int, int], image_size: tuple[int, int]) -> Placement:
    """Return the visible part of the source in `view`, and its rectangle in the output.

    Both rectangles are in whole pixels, so the same map is exact for pixels and for boxes.

    Args:
        view: source pixels that fill the output.
        source_size: (height, width) of the source image.
        image_size: (height, width) of the output.
    """
    source_x, output_x = _place_axis(view.x1, view.x2, source_size[1], image_size[1])
    source_y, output_y = _place_axis(view.y1, view.y2, source_size[0], image_size[0])
    return Placement(
        View(source_x[0], source_y[0], source_x[1], source_y[1]),
        View(output_x[0], output_y[0], output_x[1], output_y[1]),
    )


def _place_axis(
    start: int, end: int, source: int, output: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return one axis's visible (first, end) in source and output pixels, at least one pixel."""
    first = min(max(start, 0), source - 1)
    last = max(min(end, source), first + 1)
    scale = output / (end - start)
    out_first = min(max(round((first - start) * scale), 0), output - 1)
    out_last = min(max(round((last - start) * scale), out_first + 1), output)
    return (first, last), (out_first, out_last)


def resize_linear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretch [H, W, 3] to (height, width), linearly between the nearest pixels."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def sample_points(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [H, W, 3] to (height, width) as detectNet does: one pixel each, no filter."""
    rows, columns = (
        (np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))).astype(int)
        for old, new in zip(image.shape[:2], size, strict=True)
    )
    return image[rows[:, None], columns]


RESIZE = {"linear": resize_linear, "point": sample_points}


def cut_patch(image: np.ndarray, placement: Placement, *, resize: str = "linear") -> np.ndarray:
    """Resize the visible part of `image` [H, W, 3] to its size in the output; returns a copy."""
    x1, y1, x2, y2 = placement.source
    out = placement.output
    return RESIZE[resize](image[y1:y2, x1:x2], (out.y2 - out.y1, out.x2 - out.x1))


def paste_patch(
    patch: np.ndarray,
    placement: Placement,
    *,
    image_size: tuple[int, int],
    fill: tuple[int, int, int],
    flip: bool,
) -> np.ndarray:
    """Return the output [h, w, 3]: the patch with a border of colour `fill`, mirrored if `flip`."""
    x1, y1, x2, y2 = placement.output
    height, width = image_size
    if flip:
        patch = cv2.flip(patch, 1)
        x1, x2 = width - x2, width - x1
    if patch.shape[:2] == (height, width):
        return patch
    borders = (y1, height - y2, x1, width - x2)
    return cv2.copyMakeBorder(patch, *borders, cv2.BORDER_CONSTANT, value=fill)


def is_centred_in(boxes: np.ndarray, view: View) -> np.ndarray:
    """Tell which boxes [N, 4] have their centre in a view: bool [N]."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((center >= view[:2]) & (center <= view[2:])).all(axis=1)


def place_boxes(target: dict, placement: Placement, *, output_width: int, flip: bool) -> dict:
    """Transform the boxes as the pixels; return a new dict with boxes, labels and iscrowd filtered.

    Boxes whose centre is not visible are removed, the others are clipped to the visible part, and
    those then narrower than one output pixel are removed too. A crowd is kept while any part of it
    is visible: it tells the loss which pixels to ignore.

    Of a photo in tiles (`view` in the target) boxes are cut where a neighbouring tile sees them
    whole. There a box stays if LEAST_INSIDE of its area is visible, and one of which less is
    visible becomes a crowd with all of its area: neither an object nor background.

    Args:
        target: boxes [N, 4] xyxy source pixels, labels [N], iscrowd [N]; other keys are kept.
        placement: from `place_view`.
        output_width: width of the output, for the mirror image.
        flip: mirror left and right.
    """
    source = np.array(placement.source, np.float64)
    output = np.array(placement.output, np.float64)
    scale = (output[2:] - output[:2]) / (source[2:] - source[:2])
    corners = (target["boxes"].reshape(-1, 2, 2) - source[:2]) * scale + output[:2]
    center = (corners[:, 0] + corners[:, 1]) / 2
    visible = ((center >= output[:2]) & (center <= output[2:])).all(axis=1)
    iscrowd, whole = target["iscrowd"], corners
    corners = np.minimum(np.maximum(corners, output[:2]), output[2:])
    wide_enough = (corners[:, 1] - corners[:, 0] >= 1.0).all(axis=1)
    if "view" in target:
        visible = share_inside(whole.reshape(-1, 4), output.reshape(1, 4)) >= LEAST_INSIDE
        corners = np.where((visible | iscrowd)[:, None, None], corners, whole)
        iscrowd = iscrowd | ~visible
    if flip:
        corners[:, :, 0] = output_width - corners[:, ::-1, 0]
    keep = (visible | iscrowd) & wide_enough
    return {
        **target,
        "boxes": corners[keep].reshape(-1, 4).astype(np.float32),
        "labels": target["labels"][keep],
        "iscrowd": iscrowd[keep],
    }
