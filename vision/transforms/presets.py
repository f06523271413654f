"""Transforms of image and boxes for training and evaluation, and the augmentation presets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision.transforms.geometry import (
    RandomExpand,
    RandomIouCrop,
    View,
    cut_patch,
    is_centred_in,
    paste_patch,
    place_boxes,
    place_view,
)
from vision.transforms.photometric import PhotometricDistort


@dataclass(frozen=True)
class Augmentation:
    """The random parts of a preset; None or 0: without that part."""

    photometric: PhotometricDistort | None = None
    expand: RandomExpand | None = None
    crop: RandomIouCrop | None = None
    flip_probability: float = 0.0


PRESETS: dict[str, Augmentation] = {
    # As in the SSD paper, for long training.
    "ssd": Augmentation(PhotometricDistort(), RandomExpand(), RandomIouCrop(), 0.5),
    # For short training: the size of an object varies by a factor of 2.5 instead of 13, so that the
    # network sees sizes like those of the val images more often (docs/recipes.md has the figures).
    "light": Augmentation(
        PhotometricDistort(16.0, (0.8, 1.2), (0.8, 1.2), 6.0),
        RandomExpand(max_ratio=1.5),
        RandomIouCrop(min_ious=(0.1, 0.5, 0.9), min_size=0.6),
        0.5,
    ),
    "flip": Augmentation(flip_probability=0.5),
    "none": Augmentation(),
}


@dataclass(frozen=True)
class Plan:
    """The random geometry of one image, drawn before its pixels are read.

    Attributes:
        view: source pixels that will fill the output.
        flip: mirror left and right.
        source_size: (height, width) of the image, in whose pixels `view` and the boxes are.
        min_size: smallest (height, width) at which the image can be decoded without losing detail;
            larger than `source_size` if the view is enlarged.
    """

    view: View
    flip: bool
    source_size: tuple[int, int]
    min_size: tuple[int, int]


@dataclass(frozen=True)
class ViewTransform:
    """Augment an image and its boxes, and resize the result to the network's input size.

    Expand, crop and flip are first combined into one rectangle of the source, which needs only
    sizes and boxes. Only the visible part of it is then resized and changed in colour, not the
    whole source and not the border around it. The aspect ratio is not kept.

    Attributes:
        image_size: (height, width) of the output.
        fill: RGB colour of the border around an image that was zoomed out, 0..255.
        augmentation: the random parts.
        resize: a key of `geometry.RESIZE`.
        whole: images are to be decoded at their full size, as the detector on a device does; a
            decoder's scaling averages pixels, and is worth AP that no device gives.
    """

    image_size: tuple[int, int]
    fill: tuple[int, int, int]
    augmentation: Augmentation
    resize: str = "linear"
    whole: bool = False

    def __call__(
        self, image: np.ndarray, target: dict, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, dict]:
        """Transform one image and its boxes; neither input is changed.

        Args:
            image: uint8 [H, W, 3] RGB.
            target: boxes float32 [N, 4] xyxy pixels of `image`, labels int64 [N], iscrowd bool
                [N]; N may be 0. Where it has `view`, x1, y1, x2, y2 in pixels of `image`, that part
                is taken for the whole; see `place_boxes`. Other keys are kept.
            rng: the only source of randomness; None if the augmentation has no random part.

        Returns:
            The image uint8 [h, w, 3], and a new target with boxes in pixels of that image.
        """
        return self.apply(image, target, self.plan(image.shape[:2], target, rng), rng)

    def plan(
        self, source_size: tuple[int, int], target: dict, rng: np.random.Generator | None = None
    ) -> Plan:
        """Draw the geometry, so that a large image need not be decoded at full size.

        `plan`, `read_image(..., min_size=plan.min_size)` and `apply` with the same `rng` give the
        result of `__call__`, except that the decoder may do a part of the scaling.
        """
        view, flip = self._draw_view(source_size, target, rng)
        if self.whole or self.resize == "point":  # a decoder's scaling is a filter
            return Plan(view, flip, tuple(source_size), tuple(source_size))
        height = -(-source_size[0] * self.image_size[0] // (view.y2 - view.y1))  # rounded up
        width = -(-source_size[1] * self.image_size[1] // (view.x2 - view.x1))
        return Plan(view, flip, tuple(source_size), (height, width))

    def apply(
        self, image: np.ndarray, target: dict, plan: Plan, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, dict]:
        """Transform `image`, which may be smaller than `plan.source_size`, as planned."""
        view = plan.view
        if image.shape[:2] != plan.source_size:
            ratio_y, ratio_x = np.divide(image.shape[:2], plan.source_size)
            view = View(
                round(view.x1 * ratio_x),
                round(view.y1 * ratio_y),
                round(view.x2 * ratio_x),
                round(view.y2 * ratio_y),
            )
            ratios = np.array([ratio_x, ratio_y, ratio_x, ratio_y])
            target = {**target, "boxes": target["boxes"] * ratios}
        placement = place_view(view, image.shape[:2], self.image_size)
        patch = cut_patch(image, placement, resize=self.resize)
        if self.augmentation.photometric:
            patch = self.augmentation.photometric(patch, rng)
        image = paste_patch(
            patch, placement, image_size=self.image_size, fill=self.fill, flip=plan.flip
        )
        target = place_boxes(target, placement, output_width=self.image_size[1], flip=plan.flip)
        return image, target

    def _draw_view(
        self, source_size: tuple[int, int], target: dict, rng: np.random.Generator | None
    ) -> tuple[View, bool]:
        """Draw the rectangle of the source that fills the output, and whether it is mirrored."""
        augmentation = self.augmentation
        view = View(*target.get("view", (0, 0, source_size[1], source_size[0])))
        boxes = target["boxes"][~target["iscrowd"]]
        if "view" in target:
            boxes = boxes[is_centred_in(boxes, view)]
        if len(boxes) == 0:  # then a crop must have the required IoU with the whole image
            boxes = np.array([view], np.float32)
        if augmentation.expand:
            view = augmentation.expand(view, rng)
        if augmentation.crop:
            view = augmentation.crop(view, boxes, rng)
        flip = augmentation.flip_probability > 0 and rng.random() < augmentation.flip_probability
        return view, flip


def build_train_transform(
    name: str, *, image_size: tuple[int, int], mean: Sequence[float], resize: str = "linear"
) -> ViewTransform:
    """Build the training transform called `name` in PRESETS.

    Args:
        name: a key of PRESETS.
        image_size: (height, width) of the output.
        mean: RGB colour in 0..255, three numbers or one, of the border of a zoomed-out image.
        resize: a key of `geometry.RESIZE`.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown augmentation {name!r}; choose one of {', '.join(PRESETS)}")
    fill = tuple(int(level) for level in np.rint(np.broadcast_to(mean, 3)))
    return ViewTransform(tuple(image_size), fill, PRESETS[name], resize)


def build_eval_transform(image_size: tuple[int, int], *, resize: str = "linear") -> ViewTransform:
    """Build the evaluation transform: only resize whole images and boxes to `image_size` (h, w)."""
    return ViewTransform(tuple(image_size), (0, 0, 0), PRESETS["none"], resize, whole=True)
