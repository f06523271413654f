"""How well a network's priors fit a data set, and which flags of train_ssd.py it asks for."""

from dataclasses import dataclass

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex
from vision.doctor.check import CheckedData
from vision.ops.priors import build_priors
from vision.ops.tiles import num_views, tile_growth
from vision.priors.boxes import BoxSample, own_boxes
from vision.priors.coverage import MATCHED_FROM, best_prior_iou
from vision.priors.fit import fit_priors
from vision.ssd.models import build_model

FINER = "mb2-ssd-lite-fpn"  # the network with one more map for small objects
LEAST_GAIN = 0.05  # of the share of boxes, as for --priors auto
_SMALL, _SMALL_SHARE = 16, 0.2  # pixels at the input
_FEW_IMAGES = 2000
_MOST_TILES = 4  # along a side; more is for a person to decide


@dataclass(frozen=True)
class Coverage:
    """The share of training boxes that some prior fits (IoU 0.5 or more), mean of the classes.

    Attributes:
        network: its name.
        own: with the network's own priors.
        fitted: with priors fitted to the boxes.
        by_class: {class: (own, fitted)}.
    """

    network: str
    own: float
    fitted: float
    by_class: dict[str, tuple[float, float]]

    @property
    def best(self) -> float:
        """The better of the two."""
        return max(self.own, self.fitted)


def measure_coverage(data: CheckedData, network: str, image_size: tuple[int, int]) -> Coverage:
    """Measure a network's priors, own and fitted, on the boxes of the first split."""
    source = next(iter(data.splits.values()))
    boxes = own_boxes([source.index])
    model = build_model(network, num_classes=2, image_size=image_size)
    sizes = model.feature_map_sizes()
    own = model.network.priors
    fitted = fit_priors(own, sizes, image_size, boxes) if len(boxes.boxes) else own
    covered = [
        best_prior_iou(boxes.boxes, build_priors(sizes, image_size, maps).numpy()) >= MATCHED_FROM
        for maps in (own, fitted)
    ]
    by_class = {
        name: tuple(float(c[boxes.labels == label].mean()) for c in covered)
        for label, name in enumerate(data.class_names, 1)
        if (boxes.labels == label).any()
    }
    return Coverage(network, *(float(c @ boxes.weights) for c in covered), by_class)


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def box_shapes(
    data: CheckedData, image_size: tuple[int, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """The boxes of each split at the input size: {split: {"sizes": {"5%": ...}, "aspect_ratios"}}.

    Sizes are square roots of areas in pixels, aspect ratios width over height, both of the image
    stretched to the input.
    """
    shapes = {}
    for name, source in data.splits.items():
        boxes = own_boxes([source.index]).boxes
        if not len(boxes):
            continue
        sides = (boxes[:, 2:] - boxes[:, :2]) * np.array(image_size[::-1])
        columns = {"sizes": np.sqrt(sides.prod(axis=1)), "aspect_ratios": sides[:, 0] / sides[:, 1]}
        shapes[name] = {
            key: {f"{q:.0%}": round(float(np.quantile(values, q)), 2) for q in QUANTILES}
            for key, values in columns.items()
        }
    return shapes


def suggest_flags(
    data: CheckedData, coverage: list[Coverage], image_size: tuple[int, int]
) -> list[tuple[str, str]]:
    """The flags that the data ask for, each with its reason in numbers.

    Args:
        data: that was looked at.
        coverage: of the network that was asked for, then of FINER.
        image_size: of the input.
    """
    first, finer = coverage[0], coverage[-1]
    index = next(iter(data.splits.values())).index
    flags = []
    if finer.network != first.network and finer.best - first.best >= LEAST_GAIN:
        reason = f"its priors fit {finer.best:.2f} of the boxes, those of {first.network} "
        flags.append((f"--net {FINER}", reason + f"{first.best:.2f}"))
    elif first.fitted - first.own >= LEAST_GAIN:
        reason = f"fitted priors fit {first.fitted:.2f} of the boxes, the network's own "
        flags.append(("--priors auto", reason + f"{first.own:.2f}; it is the default"))
    share = float((_sizes(own_boxes([index]), image_size) < _SMALL).mean()) if len(index) else 0.0
    if share >= _SMALL_SHARE:
        larger = "x".join(str(round(1.6 * side / 32) * 32) for side in image_size)
        reason = (
            f"{share:.0%} of the boxes are under {_SMALL} px at {image_size[1]}x{image_size[0]}"
        )
        flags.append((f"--image-size {larger}", reason))
    flags += _suggest_tiles(index, image_size)
    if len(index) < _FEW_IMAGES:
        reason = f"{len(index)} training images are too few to learn a backbone from nothing"
        flags.append(("--base-net imagenet", reason))
    return flags


def _suggest_tiles(index: AnnotationIndex, image_size: tuple[int, int]) -> list[tuple[str, str]]:
    """Suggest tiles where many boxes are small, and the photos have more pixels than the input.

    As few tiles as leave few boxes small, and no more than have the input's pixels.
    """
    boxes = _sizes(own_boxes([index]), image_size)
    share = float((boxes < _SMALL).mean()) if len(index) else 0.0
    if share < _SMALL_SHARE:
        return []
    height, width = np.median(index.sizes, axis=0).astype(int)
    scale = float(np.sqrt(height * width / np.prod(image_size)))
    left, chosen = share, 1
    for tiles in range(2, _MOST_TILES + 1):
        growth = tile_growth(tiles)
        if growth > scale or left < _SMALL_SHARE:
            break
        left, chosen = float((boxes * growth < _SMALL).mean()), tiles
    if chosen == 1:
        return []
    reason = (
        f"half of the photos have {width}x{height} pixels or more, {scale:.1f} times the side of "
        f"the input, where {share:.0%} of the boxes are under {_SMALL} px; in the tiles {left:.0%} "
        f"are; {num_views(chosen)} times the work"
    )
    return [(f"--tiles {chosen}", reason)]


def _sizes(boxes: BoxSample, image_size: tuple[int, int]) -> np.ndarray:
    sides = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]) * np.array(image_size[::-1])
    return np.sqrt(sides.prod(axis=1)) if len(sides) else np.zeros(1)
