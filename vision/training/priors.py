"""--priors: keep the network's own, fit them to the training boxes, or take them from a file."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vision.args import TrainArguments
from vision.engine import distributed
from vision.files.structured_text import read_json
from vision.ops.priors import PriorMap, build_priors
from vision.priors.boxes import BoxSample, augmented_boxes, join, own_boxes
from vision.priors.coverage import MATCHED_FROM, best_prior_iou
from vision.priors.fit import fit_priors
from vision.runs.run_folder import CONFIG
from vision.runs.weights import saved_priors
from vision.ssd.network import Network
from vision.ssd.ssd import SSD
from vision.training.data import DataSplit
from vision.transforms.presets import build_train_transform

logger = logging.getLogger(__name__)
# With --priors auto, fitted priors are taken if the share of boxes that have a prior (mean over the
# classes) rises by this. A trained detector's heads have learned its own priors, so it needs more.
# Where most objects are large, all of them have a prior; of fitted ones more match each box, and AP
# was higher (docs/recipes.md, "Priors").
LEAST_GAIN = 0.05
LEAST_GAIN_OVER_TRAINED = 0.2
LARGE = 1 / 3  # of the image's side, the square root of a box's area
MOST_LOST = 0.02  # of the boxes of any size, or of any class; and of all, where most are large
_SIZES = (("under 32 px", 0, 32), ("32 to 96 px", 32, 96), ("over 96 px", 96, np.inf))
_SHOWN_CLASSES = 8


def choose_priors(args: TrainArguments, split: DataSplit, model: SSD) -> None:
    """Give a new network the priors that --priors asks for, and say what they cover.

    Args:
        args: of a new run.
        split: the training images.
        model: its `network` and `priors_cxcywh` are changed in place.

    Raises:
        ValueError: a file without priors, or with those of another network.
        OSError: it cannot be read.
    """
    if args.prior_sizes or args.priors == "default":
        return
    if args.priors not in ("auto", "fit"):
        maps, lines = read_priors(Path(args.priors), model.network), [f"priors of {args.priors}"]
    else:
        trained = saved_priors(args.pretrained_ssd, model.network) if args.pretrained_ssd else None
        maps, lines = _fit_and_compare(args, split, model, trained or model.network.priors)
    model.network = replace(model.network, priors=maps)
    model.place_priors()
    for line in lines:
        logger.info(line)


@distributed.on_main_process
def _fit_and_compare(
    args: TrainArguments, split: DataSplit, model: SSD, own: tuple[PriorMap, ...]
) -> tuple[tuple[PriorMap, ...], list[str]]:
    """Fit priors; return them or the model's own, and lines on what both cover."""
    boxes = own_boxes(split.indices, seed=args.seed, tiles=args.tiles)
    if not len(boxes.boxes):
        return own, []
    sizes = model.feature_map_sizes()
    transform = build_train_transform(
        args.augmentation, image_size=model.image_size, mean=model.network.normalization.mean
    )
    augmented = augmented_boxes(split.indices, transform, seed=args.seed, tiles=args.tiles)
    fitted = fit_priors(own, sizes, model.image_size, join(boxes, augmented), seed=args.seed)
    before, after = (
        best_prior_iou(boxes.boxes, build_priors(sizes, model.image_size, maps).numpy())
        >= MATCHED_FROM
        for maps in (own, fitted)
    )
    groups = _groups(boxes, model.image_size, split.class_names)
    rows = [(name, before[rows].mean(), after[rows].mean()) for name, rows in groups]
    mean_before, mean_after = (covered @ boxes.weights for covered in (before, after))
    gain = mean_after - mean_before
    needed = _least_gain(boxes, over_trained=bool(args.pretrained_ssd))
    lost = [name for name, old, new in rows if old - new > MOST_LOST]
    if args.priors == "fit":
        choice = "fitted, as --priors fit says"
    elif gain < needed:
        added = round(gain, 2) + 0  # -0.0 becomes 0.0
        choice = f"the network's own: fitting would add {added:.2f}, less than {needed:g}"
    elif lost:
        choice = f"the network's own: fitted ones would cost {', '.join(lost[:3])}"
    else:
        choice = "fitted"
    worst = sorted(rows[len(_SIZES) :], key=lambda row: row[1])[:_SHOWN_CLASSES]
    shown = [*rows[: len(_SIZES)], *worst]
    lines = [
        f"boxes with a prior of IoU {MATCHED_FROM} or more, own priors -> fitted: mean of the "
        f"classes {mean_before:.2f} -> {mean_after:.2f}; "
        + ", ".join(f"{name} {old:.2f} -> {new:.2f}" for name, old, new in shown),
        f"priors: {choice}",
    ]
    return (fitted if choice.startswith("fitted") else own), lines


def _least_gain(boxes: BoxSample, *, over_trained: bool) -> float:
    """Return how much the share of boxes that have a prior must rise."""
    if over_trained:
        return LEAST_GAIN_OVER_TRAINED
    is_large = np.prod(boxes.boxes[:, 2:] - boxes.boxes[:, :2], axis=1) > LARGE**2
    return -MOST_LOST if boxes.weights @ is_large > 0.5 else LEAST_GAIN


def _groups(
    boxes: BoxSample, image_size: tuple[int, int], class_names: Sequence[str]
) -> list[tuple[str, np.ndarray]]:
    """Return (name, bool [N]) of the sizes at the input that there are, and of the classes."""
    sides = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]) * np.array(image_size[::-1])
    size = np.sqrt(sides.prod(axis=1))
    sizes = [(name, (size >= low) & (size < high)) for name, low, high in _SIZES]
    classes = [(name, boxes.labels == label) for label, name in enumerate(class_names, start=1)]
    return [(name, rows) for name, rows in [*sizes, *classes] if rows.any()]


def read_priors(path: Path, network: Network) -> tuple[PriorMap, ...]:
    """Read priors from a run folder, its config.json, or a JSON file with the same `priors`.

    Raises:
        ValueError: none in it, or those of another network; names the file.
        OSError: it cannot be read.
    """
    path = path / CONFIG if path.is_dir() else path
    saved = read_json(path)
    if not isinstance(saved, dict) or "priors" not in saved:
        raise ValueError(f"--priors {path}: it has no 'priors', as a run's config.json has")
    try:
        priors = network.with_numbers({"priors": saved["priors"]}).priors
    except ValueError as error:
        raise ValueError(f"--priors {path}: {error}") from None
    if [len(m.shapes) for m in priors] != network.num_priors:
        raise ValueError(
            f"--priors {path}: {[len(m.shapes) for m in priors]} shapes for the feature maps; "
            f"{network.name} has {network.num_priors}"
        )
    return priors
