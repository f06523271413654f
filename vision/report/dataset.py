"""What the data are like at the network's input, and whether train and val are alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex
from vision.evaluation.errors import input_sizes
from vision.priors.coverage import MATCHED_FROM
from vision.report.inputs import NetworkFacts, Sources

SIZE_STEPS = 2.0 ** np.arange(1, 10.5, 0.5)  # 2 to 724 px, two bins an octave
RATIO_STEPS = 2.0 ** np.arange(-3, 3.25, 0.25)
NUM_PLACES = 16  # cells a side of the map of centres
MAX_BOXES = 20_000  # for the fit of the priors
MAX_IMAGES = 20_000  # for the shuffles
NUM_SHUFFLES = 200


@dataclass(frozen=True)
class SplitFacts:
    """The boxes of one split, crowds left out.

    Attributes:
        num_images: also those without boxes.
        num_empty: images without a box.
        image_index: int64 [N], of each box.
        labels: int64 [N], 1..C in the model's order.
        sizes: [N], square roots of the areas in pixels of the input.
        ratios: [N], width over height at the input.
        centers: [N, 2], across and down in 0..1.
        relative: [N, 4], xyxy in 0..1.
    """

    num_images: int
    num_empty: int
    image_index: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    ratios: np.ndarray
    centers: np.ndarray
    relative: np.ndarray

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Boxes of labels 1..C, int64 [C]."""
        return np.bincount(self.labels, minlength=num_classes + 1)[1:]

    def coverage(self, network: NetworkFacts) -> float:
        """Share of the boxes that some prior fits, of at most MAX_BOXES evenly chosen ones."""
        ious = network.prior_ious(self.some_boxes(MAX_BOXES))
        return float((ious >= MATCHED_FROM).mean()) if len(ious) else 0.0

    def some_boxes(self, count: int) -> np.ndarray:
        """At most `count` boxes [n, 4] of `relative`, evenly chosen."""
        return self.relative[:: max(1, -(-len(self.relative) // count))]

    def places(self) -> np.ndarray:
        """Share of the centres in each cell, [NUM_PLACES, NUM_PLACES], rows from the top."""
        cells = np.clip((self.centers * NUM_PLACES).astype(int), 0, NUM_PLACES - 1)
        flat = np.bincount(cells[:, 1] * NUM_PLACES + cells[:, 0], minlength=NUM_PLACES**2)
        return flat.reshape(NUM_PLACES, NUM_PLACES) / max(1, len(self.centers))


def describe_split(
    sources: Sources, class_names: Sequence[str], network: NetworkFacts
) -> SplitFacts:
    """Collect the boxes of a split that training sees.

    Args:
        sources: annotation files, whose classes have the model's names, in any order.
        class_names: the model's.
        network: for the size of the input.
    """
    parts, first = [], 0
    for index, _ in sources:
        parts.append(_boxes_of(index, class_names, network.photo_size, first))
        first += len(index)
    image_index, labels, relative, sizes, ratios = map(np.concatenate, zip(*parts, strict=True))
    return SplitFacts(
        num_images=first,
        num_empty=first - len(np.unique(image_index)),
        image_index=image_index,
        labels=labels,
        sizes=sizes,
        ratios=ratios,
        centers=(relative[:, :2] + relative[:, 2:]) / 2,
        relative=relative,
    )


def _boxes_of(
    index: AnnotationIndex, class_names: Sequence[str], photo_size: tuple[int, int], first: int
) -> tuple[np.ndarray, ...]:
    rows = np.flatnonzero(index.trainable & ~index.iscrowd)
    images = index.images_of_boxes()[rows]
    number = {name: label for label, name in enumerate(class_names, 1)}
    own = np.array([0, *(number.get(category.name, 0) for category in index.categories)])
    boxes = index.clipped_boxes[rows].astype(float)
    sizes = np.maximum(index.sizes[images], 1)[:, ::-1].astype(float)  # across, down
    scale = np.array(photo_size)[::-1] / sizes
    extents = boxes[:, 2:] - boxes[:, :2]
    at_input = extents * scale
    xywh = np.concatenate([boxes[:, :2], extents], axis=1)
    relative = (boxes / np.tile(sizes, 2)).clip(0, 1)
    ratios = at_input[:, 0] / np.maximum(at_input[:, 1], 1e-9)
    return images + first, own[index.labels[rows]], relative, input_sizes(xywh, scale), ratios


@dataclass(frozen=True)
class Shift:
    """How far two splits lie apart in one respect.

    Attributes:
        name: of what.
        distance: total variation, 0 (alike) to 1.
        by_chance: what 95 % of random divisions of the same images stay below.
        largest: the value whose share differs most.
        shares: of that value in train and in val.
    """

    name: str
    distance: float
    by_chance: float
    largest: str
    shares: tuple[float, float]

    @property
    def is_seen(self) -> bool:
        """Whether the splits are further apart than chance explains."""
        return self.distance > self.by_chance


def find_shifts(train: SplitFacts, val: SplitFacts, class_names: Sequence[str]) -> list[Shift]:
    """Compare classes, sizes, shapes and places of two splits' boxes.

    Boxes of an image are alike, so chance is measured by dividing the images anew.
    """
    if not len(train.labels) or not len(val.labels):
        return []
    size_names = [f"about {size:.0f} px" for size in (0.7 * SIZE_STEPS[0], *SIZE_STEPS * 1.19)]
    ratio_names = [f"width {r:.2g} x height" for r in (RATIO_STEPS[0], *RATIO_STEPS * 1.09)]
    thirds = [f"{row} {column}" for row in ("upper", "middle", "lower")
              for column in ("left", "centre", "right")]  # fmt: skip
    subjects = (
        ("classes", class_names, lambda s: s.labels - 1),
        ("box sizes", size_names, lambda s: np.digitize(s.sizes, SIZE_STEPS)),
        ("box shapes", ratio_names, lambda s: np.digitize(s.ratios, RATIO_STEPS)),
        ("places", thirds, lambda s: np.clip(s.centers * 3, 0, 2).astype(int) @ [1, 3]),
    )
    return [_compare(name, values, bin_of, train, val) for name, values, bin_of in subjects]


def _compare(
    name: str,
    value_names: Sequence[str],
    bin_of: Callable[[SplitFacts], np.ndarray],
    train: SplitFacts,
    val: SplitFacts,
) -> Shift:
    """Compare two splits in one respect; `bin_of` gives the place in `value_names` of each box."""
    counts = [_image_counts(split, bin_of(split), len(value_names)) for split in (train, val)]
    distance, differences, shares = _distance(counts[0].sum(axis=0), counts[1].sum(axis=0))
    both = np.concatenate([counts[0], counts[1]])
    if len(counts[0]) > MAX_IMAGES:
        both = np.concatenate([counts[0][:: len(counts[0]) // MAX_IMAGES], counts[1]])
    rng = np.random.default_rng(0)
    total, num_val = both.sum(axis=0), min(len(counts[1]), len(both) - 1)
    by_chance = []
    for _ in range(NUM_SHUFFLES):
        chosen = both[rng.permutation(len(both))[:num_val]].sum(axis=0)
        by_chance.append(_distance(total - chosen, chosen)[0])
    worst = int(np.argmax(np.abs(differences)))
    pair = (float(shares[0][worst]), float(shares[1][worst]))
    return Shift(name, distance, float(np.quantile(by_chance, 0.95)), value_names[worst], pair)


def _image_counts(split: SplitFacts, bins: np.ndarray, num_bins: int) -> np.ndarray:
    """Boxes of each image in each bin, int32 [I, B], of the images that have boxes."""
    images = np.unique(split.image_index, return_inverse=True)[1]
    flat = np.bincount(images * num_bins + bins, minlength=(images.max() + 1) * num_bins)
    return flat.reshape(-1, num_bins).astype(np.int32)


def _distance(first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray, tuple]:
    shares = first / max(1, first.sum()), second / max(1, second.sum())
    differences = shares[1] - shares[0]
    return float(np.abs(differences).sum() / 2), differences, shares
