"""The data set class: images with boxes and labels, read and augmented on access."""

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from vision.datasets.annotation_index import AnnotationIndex
from vision.datasets.image_cache import ImageCache
from vision.datasets.image_files import read_image
from vision.datasets.threads import map_in_threads
from vision.ops.tiles import num_views, tile_rectangles

Target = dict[str, Any]
Transform = Callable[[np.ndarray, Target, np.random.Generator], tuple[np.ndarray, Target]]


class CocoDetection(Dataset):
    """Images and boxes of one or more annotation files, after a joint transform.

    `dataset[i]` is item `i` of epoch 0, `dataset[epoch, i]` that of another epoch. The augmentation
    depends on (seed, epoch, i) alone, not on the worker or on earlier items.
    """

    def __init__(
        self,
        sources: list[tuple[AnnotationIndex, str | os.PathLike]],
        *,
        transform: Transform,
        seed: int = 0,
        image_indices: np.ndarray | None = None,
        tiles: int = 1,
        views: np.ndarray | None = None,
    ) -> None:
        """Check that the sources have the same classes and that all image files exist.

        Args:
            sources: pairs of an index and its image folder.
            transform: called with (image, target, rng), returns (image, target). If it has `plan`
                and `apply`, `plan` is called before the image is read, so that a large photo is
                not decoded larger than needed.
            seed: seed of the augmentation, 0 or more.
            image_indices: the images to use, [I], counted over all sources; None: all.
            tiles: along each side of an image; see `vision.ops.tiles`.
            views: with tiles, the items: (position in `image_indices`, view) of each, int [N, 2].
                View 0 is the whole image.

        Raises:
            ValueError: the sources have different classes, or image files are missing.
        """
        check_same_categories([index for index, _ in sources])
        for index, folder in sources:
            check_image_files(index, folder)
        self.sources = [(index, str(folder)) for index, folder in sources]
        self.categories = sources[0][0].categories
        self.transform = transform
        self.seed = seed
        self._has_unannotated = any(index.unannotated for index, _ in sources)
        self.cache: ImageCache | None = None  # for a transform with `plan` and `apply`
        self._ends = np.cumsum([len(index) for index, _ in sources])
        everything = np.arange(self._ends[-1])
        self.image_indices = everything if image_indices is None else everything[image_indices]
        self.tiles = tiles
        self.views = views

    def __len__(self) -> int:
        return len(self.image_indices) if self.views is None else len(self.views)

    @property
    def sizes(self) -> np.ndarray:
        """(height, width) of each upright image, int32 [I, 2], in the order of `image_indices`."""
        return np.concatenate([index.sizes for index, _ in self.sources])[self.image_indices]

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[np.ndarray, Target]:
        """Return the image, uint8 [H, W, 3] RGB, and its target.

        Returns:
            image and {boxes float32 [N, 4] xyxy pixels of the image, labels int64 [N], iscrowd
            bool [N], image_id, index (its place in `image_indices`), orig_size (height, width)};
            N may be 0. With tiles also view (x1, y1, x2, y2 of what is seen). Where sources lack
            classes that others have, also unannotated bool [C + 1], the labels that nobody marked
            in this image.

        Raises:
            ValueError, OSError: the file cannot be read, or has another size than its entry.
        """
        return self._make(*self._draw(item))

    def __getitems__(
        self, items: list[int | tuple[int, int]]
    ) -> Iterator[tuple[np.ndarray, Target]]:
        """Yield the items of a batch, each as `dataset[item]`; DataLoader calls this method.

        With one thread, as in a worker, all random geometry is drawn before the first image is
        read, since code and tables then stay in the processor's cache. The images are yielded one
        by one, so that each can use the memory of an earlier one.
        """
        return map_in_threads(lambda parts: self._make(*parts), map(self._draw, items))

    def _draw(self, item: int | tuple[int, int]) -> tuple:
        """Prepare an item before its pixels are read: (path, target, rng, plan or None)."""
        epoch, i = item if isinstance(item, tuple) else (0, item)
        num_items = len(self.image_indices if self.views is None else self.views)
        if not 0 <= i < num_items:
            raise IndexError(f"item {i} of a dataset of {num_items} images")
        image, view = (i, 0) if self.views is None else self.views[i].tolist()
        position = self.image_indices[image]
        source = int(np.searchsorted(self._ends, position, side="right"))
        index, folder = self.sources[source]
        row = int(position - (self._ends[source] - len(index)))
        path = os.path.join(folder, index.file_name(row))
        size = tuple(index.sizes[row].tolist())
        target = {**_target(index, row, size), "index": int(image)}
        if self.views is not None:
            target["view"] = tuple(tile_rectangles([size], self.tiles)[0, view].tolist())
        if self._has_unannotated:
            target["unannotated"] = _unannotated(index)
        rng = np.random.default_rng((self.seed, int(epoch), int(i)))
        has_plan = hasattr(self.transform, "plan")
        return path, target, rng, self.transform.plan(size, target, rng) if has_plan else None

    def _make(
        self, path: str, target: Target, rng: np.random.Generator, plan: Any
    ) -> tuple[np.ndarray, Target]:
        """Read the pixels of an item, and transform pixels and boxes."""
        size = target["orig_size"]
        if plan is None:
            return self.transform(read_image(path, size=size), target, rng)
        if self.cache is None:
            image = read_image(path, size=size, min_size=plan.min_size)
        else:
            image = self.cache.read(target["index"], path)
        return self.transform.apply(image, target, plan, rng)


class TiledImages(CocoDetection):
    """Images in tiles for evaluation: an item of a batch becomes all views of its image.

    Each image is decoded once. For a transform with `plan` and `apply`.

    Attributes:
        views_per_item: how many they are.
    """

    def __init__(
        self, sources: list[tuple[AnnotationIndex, str | os.PathLike]], **options: Any
    ) -> None:
        """Take the arguments of CocoDetection without `views`; `tiles` is 2 or more."""
        super().__init__(sources, **options)
        self.views_per_item = num_views(self.tiles)
        places = np.indices((len(self.image_indices), self.views_per_item))
        self.views = places.reshape(2, -1).T

    def __len__(self) -> int:
        return len(self.image_indices)

    def __getitems__(
        self, items: list[int | tuple[int, int]]
    ) -> Iterator[tuple[np.ndarray, Target]]:
        """Yield the views of each image, the whole image first."""
        return chain.from_iterable(map_in_threads(self._make_views, items))

    def _make_views(self, item: int | tuple[int, int]) -> list[tuple[np.ndarray, Target]]:
        epoch, image = item if isinstance(item, tuple) else (0, item)
        first = image * self.views_per_item
        drawn = [self._draw((epoch, first + view)) for view in range(self.views_per_item)]
        path, target, _, _ = drawn[0]
        min_size = tuple(max(sides) for sides in zip(*(d[3].min_size for d in drawn), strict=True))
        pixels = read_image(path, size=target["orig_size"], min_size=min_size)
        return [self.transform.apply(pixels, target, plan, rng) for _, target, rng, plan in drawn]


def _target(index: AnnotationIndex, row: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the target of the image at position `row`: its trainable boxes, in its pixels."""
    rows = slice(index.box_offsets[row], index.box_offsets[row + 1])
    mask = index.trainable[rows]
    return {
        "boxes": index.clipped_boxes[rows][mask],
        "labels": index.labels[rows][mask].astype(np.int64),
        "iscrowd": index.iscrowd[rows][mask],
        "image_id": int(index.image_ids[row]),
        "orig_size": size,
    }


def _unannotated(index: AnnotationIndex) -> np.ndarray:
    """bool [C + 1]: the classes that nobody marked in the images of this source."""
    mask = np.zeros(len(index.categories) + 1, bool)
    mask[list(index.unannotated)] = True
    return mask


def check_image_files(index: AnnotationIndex, folder: str | os.PathLike) -> None:
    """Check that every image file of `index` exists, with one scan of each folder.

    Raises:
        ValueError: files are missing; says how many, and names the first ones.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for row in range(len(index)):
        parent, name = os.path.split(index.file_name(row))
        if parent not in present:
            present[parent] = _names_in(Path(folder, parent))
        if name not in present[parent]:
            missing.append(index.file_name(row))
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        is_other = os.path.lexists(os.path.join(folder, missing[0]))
        shown += " (something is there, but not a regular file)" if is_other else ""
        raise ValueError(
            f"{folder}: {len(missing)} of the {len(index)} images of {index.annotation_file} are "
            f"missing: {shown}; fetch them, or remove their entries"
        )


def _names_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}  # no link to nothing


def check_same_categories(indices: list[AnnotationIndex]) -> None:
    """Check that all files have the same class names in the same order.

    Raises:
        ValueError: two files differ; shows the first difference.
    """
    if not indices:
        raise ValueError("a dataset needs at least one annotation file")
    first = indices[0]
    expected = [category.name for category in first.categories]
    for index in indices[1:]:
        names = [category.name for category in index.categories]
        if names == expected:
            continue
        label = next(
            (i for i, pair in enumerate(zip(expected, names, strict=False)) if pair[0] != pair[1]),
            min(len(expected), len(names)),
        )
        raise ValueError(
            f"{index.annotation_file} has other classes than {first.annotation_file}: "
            f"{len(names)} against {len(expected)}, the first difference at label {label + 1}: "
            f"{_name_at(names, label)} against {_name_at(expected, label)}; "
            "what is trained together needs the same categories"
        )


def _name_at(names: list[str], label: int) -> str:
    return repr(names[label]) if label < len(names) else "none"
