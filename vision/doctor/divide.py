"""Dividing images into train, val and test: groups stay together, classes are in proportion."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex, build_index
from vision.datasets.findings import no_progress
from vision.datasets.layouts.layout import Source
from vision.doctor.duplicates import groups_of, near_pairs, popcount, same_pixels
from vision.doctor.look import Looks, look_at_images

GROUPS = ("duplicates", "video", "folder", "none")
# Neighbours in a sequence of frames show one scene up to these distances of their hashes and
# thumbnails. Hashes of unrelated images differ in 32 bits on average.
_SCENE_BITS, _SCENE_GRAY = 22, 24.0


@dataclass(frozen=True)
class Side:
    """One of the splits: its images as a source, and their paths."""

    source: Source
    paths: list[str]


@dataclass(frozen=True)
class Division:
    """The sides, and how many images each group has."""

    sides: list[Side]
    groups: list[int]


def divide(
    sources: Sequence[Source],
    *,
    fractions: Sequence[float],
    group_by: str = "duplicates",
    seed: int = 0,
    progress: Callable[..., Iterable] = no_progress,
) -> Division:
    """Divide all images of some sources anew.

    Args:
        sources: with the same classes; an image that is in several counts once, with the boxes of
            the first.
        fractions: of the images, for each side.
        group_by: one of GROUPS.
        seed: of the draw; the same images, fractions and seed give the same sides.
        progress: wraps the iteration over the images, where they are looked at.
    """
    everything = joined(sources)
    index, folder = everything
    paths = [os.path.join(folder, index.file_name(row)) for row in range(len(index))]
    groups = find_groups(paths, group_by, progress=progress)
    side_of = assign(groups, _class_counts(index), fractions, seed=seed)
    sides = []
    for number in range(len(fractions)):
        rows = np.flatnonzero(side_of == number)
        source = everything._replace(index=index.take(rows))
        sides.append(Side(source, [paths[row] for row in rows]))
    return Division(sides, np.unique(groups, return_counts=True)[1].tolist())


def joined(sources: Sequence[Source]) -> Source:
    """One source of the images of all; ids are numbered anew, names are of their common folder."""
    folders = [os.path.abspath(source.image_folder) for source in sources]
    root = os.path.commonpath(folders)
    seen: dict[str, int] = {}
    kept: list[tuple[int, int]] = []
    for number, (source, folder) in enumerate(zip(sources, folders, strict=True)):
        for row in range(len(source.index)):
            name = os.path.relpath(os.path.join(folder, source.index.file_name(row)), root)
            if name not in seen:
                seen[name] = len(kept)
                kept.append((number, row))
    owner, rows = (np.array(column, dtype=np.int64) for column in zip(*kept, strict=True))
    parts = [source.index.take(rows[owner == number]) for number, source in enumerate(sources)]
    counts = np.concatenate([np.diff(part.box_offsets) for part in parts])
    names = [name.replace(os.sep, "/") for name in seen]
    index = build_index(
        f"the images of {root}",
        parts[0].categories,
        image_ids=np.arange(1, len(kept) + 1),
        file_names=names,
        sizes=np.concatenate([part.sizes for part in parts]),
        rows=np.repeat(np.arange(len(kept)), counts),
        labels=np.concatenate([part.labels for part in parts]),
        boxes_xywh=np.concatenate([part.boxes_xywh for part in parts]),
        areas=np.concatenate([part.areas for part in parts]),
        iscrowd=np.concatenate([part.iscrowd for part in parts]),
    )
    return Source(index, Path(root))


def find_groups(
    paths: Sequence[str], group_by: str, *, progress: Callable[..., Iterable] = no_progress
) -> np.ndarray:
    """A number for each image, equal for those that stay together: int64 [I].

    Raises:
        ValueError: an image cannot be read.
    """
    count = len(paths)
    if group_by == "none":
        return np.arange(count)
    if group_by == "folder":
        return np.unique([os.path.dirname(path) for path in paths], return_inverse=True)[1]
    looks = look_at_images(paths, progress=progress)
    for row, why in looks.problems.items():
        raise ValueError(f"{paths[row]}: {why}; validate_image_files.py names all such images")
    everything = np.arange(count)
    pairs = [near_pairs(looks, everything, everything), _same_file(looks)]
    if group_by == "video":
        pairs.append(_neighbours(paths, looks))
    return groups_of(count, np.concatenate(pairs))


def _same_file(looks: Looks) -> np.ndarray:
    order = np.argsort(same_pixels(looks), kind="stable")
    number = same_pixels(looks)[order]
    same = number[1:] == number[:-1]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _neighbours(paths: Sequence[str], looks: Looks) -> np.ndarray:
    """Pairs of images that follow each other by their number and show the same scene."""
    keys = [re.match(r"(?s)(.*?)(\d*)\D*$", os.path.splitext(path)[0]).groups() for path in paths]
    order = sorted(range(len(paths)), key=lambda i: (keys[i][0], int(keys[i][1] or 0)))
    pairs = np.array(list(itertools.pairwise(order)), dtype=np.int64).reshape(-1, 2)
    same_name = np.array([keys[a][0] == keys[b][0] for a, b in pairs.tolist()], dtype=bool)
    bits = popcount(looks.hashes[pairs[:, 0]] ^ looks.hashes[pairs[:, 1]])
    first, second = (looks.thumbnails[pairs[:, k]].astype(np.int16) for k in (0, 1))
    gray = np.abs(first - second).mean(axis=(1, 2))
    return pairs[same_name & (bits <= _SCENE_BITS) & (gray <= _SCENE_GRAY)]


def assign(
    groups: np.ndarray, counts: np.ndarray, fractions: Sequence[float], *, seed: int
) -> np.ndarray:
    """Choose a side for each image so that classes and images are in proportion.

    Groups are taken in a random order, those with the rarest classes first, and each goes to the
    side that lacks most of what it has (Sechidis et al. 2011, On the Stratification of Multi-Label
    Data, section 3, with groups in place of examples).

    Args:
        groups: of the images, int64 [I].
        counts: of the boxes of each class in each image, [I, C].
        fractions: of the sides.
        seed: of the order.

    Returns:
        int64 [I], the side's number; -1 where the fractions leave an image out.
    """
    _, number = np.unique(groups, return_inverse=True)
    # Images count as one more class, so that the sides' sizes are in proportion, too.
    table = np.concatenate([counts, np.ones((len(counts), 1))], axis=1).astype(float)
    size = np.zeros((number.max() + 1, table.shape[1]))
    np.add.at(size, number, table)
    total = size.sum(axis=0)
    shares = np.array([*fractions, max(0.0, 1 - sum(fractions))])
    wanted = shares[:, None] * total
    rarity = np.where(size > 0, total, np.inf).min(axis=1)  # of each group's rarest class
    order = np.random.default_rng(seed).permutation(len(size))
    order = order[np.lexsort((-size[order, -1], rarity[order]))]
    side_of = np.zeros(len(size), np.int64)
    for group in order.tolist():
        lack = wanted / np.maximum(total, 1)  # [sides, C + 1]
        score = (lack * (size[group] > 0) / np.maximum(total, 1)).sum(axis=1)
        score[shares == 0] = -np.inf
        side = int(score.argmax())
        side_of[group] = side
        wanted[side] -= size[group]
    side_of[side_of == len(fractions)] = -1
    return side_of[number]


def _class_counts(index: AnnotationIndex) -> np.ndarray:
    """Boxes of each class in each image, int64 [I, C]."""
    counts = np.zeros((len(index), len(index.categories)), np.int64)
    np.add.at(counts, (index.images_of_boxes(), index.labels - 1), 1)
    return counts
