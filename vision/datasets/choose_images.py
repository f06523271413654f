"""Images that two splits share, and choosing as many images of each class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision.datasets.layouts.layout import Source


def shared_images(first: Sequence[Source], second: Sequence[Source]) -> list[str]:
    """The image files that are in both splits, by their places; links are followed."""
    paths = set(_paths(first, near=second))
    return [path for path in _paths(second, near=first) if path in paths]


def _paths(sources: Sequence[Source], *, near: Sequence[Source]) -> list[str]:
    """The images of sources whose folder holds one of `near`, or lies in it, and so may share."""
    others = [os.path.realpath(source.image_folder) for source in near]
    paths = []
    for index, folder in sources:
        place = Path(os.path.realpath(folder))
        if any(
            place.is_relative_to(other) or Path(other).is_relative_to(place) for other in others
        ):
            paths += [os.path.join(place, index.file_name(row)) for row in range(len(index))]
    return paths


def balanced(sources: Sequence[Source], *, seed: int) -> list[Source]:
    """Choose images so that each class is in at least as many as the rarest class is.

    As --balance_data of qfgaohao's pytorch-ssd does it for Open Images: for each class as many of
    its images as the rarest has are drawn, and the images of all draws are kept.

    Args:
        sources: with the same classes.
        seed: of the draw.
    """
    images_of = _images_of_classes(sources)
    counts = [len(images) for images in images_of if len(images)]
    rng = np.random.default_rng(seed)
    chosen = np.unique(
        np.concatenate([rng.permutation(images)[: min(counts)] for images in images_of])
    )
    ends = np.cumsum([0, *(len(source.index) for source in sources)])
    return [
        source._replace(index=source.index.take(chosen[(chosen >= start) & (chosen < end)] - start))
        for source, start, end in zip(sources, ends[:-1], ends[1:], strict=True)
    ]


def _images_of_classes(sources: Sequence[Source]) -> list[np.ndarray]:
    """For labels 1, 2, ...: the images with a trainable box, counted over all sources."""
    images, labels, start = [], [], 0
    for index, _ in sources:
        counted = index.trainable & ~index.iscrowd
        images.append(start + index.images_of_boxes()[counted])
        labels.append(index.labels[counted])
        start += len(index)
    images, labels = np.concatenate(images), np.concatenate(labels)
    num_classes = len(sources[0].index.categories)
    return [np.unique(images[labels == label]) for label in range(1, num_classes + 1)]
