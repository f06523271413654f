"""The joint image and box transforms for training and evaluation, by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision.transforms.geometry import (
    RandomExpand,
    RandomIouCrop,
    View,
    cut_patch,
    paste_patch,
    place_boxes,
    place_view,
)
from vision.transforms.photometric import PhotometricDistort


@dataclass(frozen=True)
class Augmentation:
    """What a preset draws at random; None or 0 leaves that part out."""

    photometric: PhotometricDistort | None = None
    expand: RandomExpand | None = None
    crop: RandomIouCrop | None = None
    flip_probability: float = 0.0


PRESETS: dict[str, Augmentation] = {
    # The paper's.
    "ssd": Augmentation(PhotometricDistort(), RandomExpand(), RandomIouCrop(), 0.5),
    # For small data sets: sides of objects vary by a factor of 2.5, not of 13.
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
    """What was decided for one image before its pixels are read.

    Attributes:
        view: source pixels that will fill the output.
        flip: mirror left and right.
        source_size: (height, width) of the image that `view` and the boxes are in.
        min_size: (height, width) at which the image may be decoded without losing detail; larger
            than `source_size` where the view is enlarged.
    """

    view: View
    flip: bool
    source_size: tuple[int, int]
    min_size: tuple[int, int]


@dataclass(frozen=True)
class ViewTransform:
    """Augment an image and its boxes, and stretch the result to the network's input size.

    Expand, crop and flip are first combined into one rectangle of the source, from sizes and boxes
    alone. Only what is visible of it is then resized, and only these pixels are distorted: never
    the source's, nor the fill around them.

    Attributes:
        image_size: (height, width) of the output.
        fill: RGB levels around an image that was zoomed out.
        augmentation: what is drawn at random.
    """

    image_size: tuple[int, int]
    fill: tuple[int, int, int]
    augmentation: Augmentation

    def __call__(
        self, image: np.ndarray, target: dict, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, dict]:
        """Transform one image; everything random comes from `rng`, and neither input is changed.

        Args:
            image: uint8 [H, W, 3] RGB.
            target: boxes float32 [N, 4] xyxy pixels of `image`, labels int64 [N], iscrowd bool
                [N]; N may be 0. Other keys are handed through.
            rng: the only source of randomness; None if the augmentation has nothing random.

        Returns:
            The image uint8 [h, w, 3], and a new target with the boxes in its pixels.
        """
        return self.apply(image, target, self.plan(image.shape[:2], target, rng), rng)

    def plan(
        self, source_size: tuple[int, int], target: dict, rng: np.random.Generator | None = None
    ) -> Plan:
        """Draw the geometry, so that a large image need not be decoded at full size.

        `plan`, then `read_image(..., min_size=plan.min_size)`, then `apply` with the same `rng`
        draws what the call draws; the pixels differ only by the decoder's way of scaling.
        """
        view, flip = self._draw_view(source_size, target, rng)
        height = -(-source_size[0] * self.image_size[0] // (view.y2 - view.y1))  # rounded up
        width = -(-source_size[1] * self.image_size[1] // (view.x2 - view.x1))
        return Plan(view, flip, tuple(source_size), (height, width))

    def apply(
        self, image: np.ndarray, target: dict, plan: Plan, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, dict]:
        """Carry out `plan` on `image`, which may be smaller than `plan.source_size`."""
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
        patch = cut_patch(image, placement)
        if self.augmentation.photometric:
            patch = self.augmentation.photometric(patch, rng)
        image = paste_patch(
            patch, placement, image_size=self.image_size, fill=self.fill, flip=plan.flip
        )
        target = place_boxes(target, placement, output_width=self.image_size[1], flip=plan.flip)
        return image, target

    def _draw_view(self, source_size, target: dict, rng) -> tuple[View, bool]:
        augmentation = self.augmentation
        view = View(0, 0, source_size[1], source_size[0])
        boxes = target["boxes"][~target["iscrowd"]]
        if len(boxes) == 0:  # the image itself is then what a crop must not lose
            boxes = np.array([view], np.float32)
        if augmentation.expand:
            view = augmentation.expand(view, rng)
        if augmentation.crop:
            view = augmentation.crop(view, boxes, rng)
        flip = augmentation.flip_probability > 0 and rng.random() < augmentation.flip_probability
        return view, flip


def build_train_transform(
    name: str, *, image_size: tuple[int, int], mean: Sequence[float]
) -> ViewTransform:
    """The training transform called `name` in PRESETS.

    Args:
        name: a key of PRESETS.
        image_size: (height, width) of the output.
        mean: three RGB levels in 0..255 (or one for all) around an image that was zoomed out.

    Raises:
        ValueError: `name` is no preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown augmentation {name!r}; choose one of {', '.join(PRESETS)}")
    fill = tuple(int(level) for level in np.rint(np.broadcast_to(mean, 3)))
    return ViewTransform(tuple(image_size), fill, PRESETS[name])


def build_eval_transform(image_size: tuple[int, int]) -> ViewTransform:
    """Nothing but the stretch to `image_size` (height, width), the boxes scaled along."""
    return ViewTransform(tuple(image_size), (0, 0, 0), PRESETS["none"])
