"""A trained model from a run folder, a checkpoint, or a weight file of the family."""

import logging
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from vision.runs.checkpoint import BEST, FORMAT, find_newest, read_checkpoint
from vision.runs.tensor_files import load_tensors
from vision.runs.weights import (
    TORCHVISION,
    read_coco_weights,
    read_labels,
    read_state_dict,
    score_tensors,
)
from vision.ssd.models import MODELS, build_model, get_network
from vision.ssd.ssd import SSD
from vision.ssd.torchvision_ssd import NamedClasses

logger = logging.getLogger(__name__)


def load_for_inference(
    path: str | Path,
    *,
    net: str | None = None,
    label_file: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    tiles: int | None = None,
    box_voting: float | None = None,
) -> tuple[SSD | NamedClasses, list[dict], dict]:
    """Load a trained model in evaluation mode, with its averaged weights where it has them.

    Args:
        path: a run folder (its best checkpoint, else its newest), a checkpoint, a weight file
            of the family, or `torchvision` for its COCO weights of `net`.
        net: network of a weight file that does not say so; of a run or a checkpoint, its own.
        label_file: its labels.txt; the one beside the file when None.
        image_size: input (height, width), instead of the one trained with.
        tiles: along each side of a photo, instead of those trained with.
        box_voting: lowest IoU of a vote, 0: none; instead of the run's.

    Returns:
        The model; its classes as dicts of label, category_id, original_category_id and name, and
        of thresholds where its checkpoint has them; and the run's configuration, empty for a
        weight file.

    Raises:
        ValueError: not a model, or weights of another network or other classes.
        OSError: cannot be read.
    """
    model, classes, config = _load(path, net, label_file, image_size)
    if tiles is not None:
        if tiles > model.network.tiles > 1:
            logger.warning(
                "%s: in %d x %d tiles objects are larger than in the %d x %d that it was trained "
                "with; expect a lower AP, or train with --tiles %d",
                path, *[tiles] * 2, *[model.network.tiles] * 2, tiles,
            )  # fmt: skip
        model.network = replace(model.network, tiles=tiles)
    if box_voting is not None:
        model.network = model.network.with_box_voting(box_voting)
    return model, classes, config


def _load(
    path: str | Path,
    net: str | None,
    label_file: str | Path | None,
    image_size: tuple[int, int] | None,
) -> tuple[SSD | NamedClasses, list[dict], dict]:
    if path == TORCHVISION:
        return (*_load_coco_weights(net, image_size), {})
    path = Path(path)
    checkpoint = _read(path)
    if checkpoint is None:
        return (*_load_weight_file(path, net, label_file, image_size), {})
    _check_given(path, checkpoint, net, label_file)
    model = _build(path, checkpoint, image_size=image_size)
    weights = checkpoint["ema"] or checkpoint["model"]
    if problem := _misfit(model, weights):
        raise ValueError(f"{path}: its weights are not those of its network: {problem}")
    model.load_state_dict(weights)
    classes = checkpoint["classes"]
    if thresholds := checkpoint.get("thresholds"):
        classes = [
            item | {"thresholds": scores} for item, scores in zip(classes, thresholds, strict=True)
        ]
    return model.eval(), classes, checkpoint["config"]


def _build(path: Path, checkpoint: dict, *, image_size: tuple[int, int] | None) -> SSD:
    """Build the network of a checkpoint's arguments, which may have been edited."""
    arguments = checkpoint["config"]["arguments"]
    try:
        return build_model(
            arguments["net"],
            num_classes=len(checkpoint["classes"]) + 1,
            image_size=image_size or tuple(arguments["image_size"]),
            width_mult=arguments["mb2_width_mult"],
            prior_sizes=arguments["prior_sizes"],
            saved=checkpoint,
        )
    except KeyError as error:
        raise ValueError(f"{path}: its configuration lacks {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> dict | None:
    """Return the checkpoint of a run folder or file, or None for another kind of file."""
    if path.is_dir():
        if (path / BEST).is_file():
            return read_checkpoint(path / BEST)
        return find_newest(path)[1]
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    content = load_tensors(path)
    is_checkpoint = isinstance(content, dict) and content.get("format") == FORMAT
    return read_checkpoint(path) if is_checkpoint else None


def _check_given(
    path: Path, checkpoint: dict, net: str | None, label_file: str | Path | None
) -> None:
    """Refuse a network or classes that are not the checkpoint's: they would have no effect."""
    own = checkpoint["config"]["arguments"].get("net")
    if net not in (None, own):
        raise ValueError(f"{path}: its network is {own}; leave out --net {net}")
    if label_file is None:
        return
    names = [item["name"] for item in checkpoint["classes"]]
    if read_labels(Path(label_file)) != names:
        raise ValueError(
            f"{label_file}: not the classes of {path}, which has its own: {', '.join(names)}; "
            "leave out the file"
        )


def _load_weight_file(
    path: Path,
    net: str | None,
    label_file: str | Path | None,
    image_size: tuple[int, int] | None,
) -> tuple[SSD, list[dict]]:
    weights, _ = read_state_dict(path)
    labels = Path(label_file) if label_file else path.with_name("labels.txt")
    if label_file and not labels.is_file():
        raise ValueError(f"{labels}: no such file; --label-file takes the class names, one a line")
    if net is None or not labels.is_file():
        raise ValueError(
            f"{path}: bare weights; say which network and classes: --net NAME --label-file FILE"
        )
    names = read_labels(labels)
    width_of = get_network(net).width_of
    model = build_model(
        net,
        num_classes=len(names) + 1,
        image_size=image_size,
        width_mult=width_of(weights) if width_of else 1.0,
    )
    _check_fit(path, labels, net, model, weights, len(names))
    model.load_state_dict(weights)
    return model.eval(), _as_classes(names)


def _load_coco_weights(
    net: str | None, image_size: tuple[int, int] | None
) -> tuple[NamedClasses, list[dict]]:
    if net is None:
        known = " or ".join(name for name, network in MODELS.items() if network.coco_weights)
        raise ValueError(f"{TORCHVISION}: say which network: --net {known}")
    weights, names = read_coco_weights(get_network(net))
    model = build_model(net, num_classes=len(names) + 1, image_size=image_size)
    model.load_state_dict(weights)
    labels = [label for label, name in enumerate(names, start=1) if name is not None]
    return NamedClasses(model, labels).eval(), _as_classes([names[i - 1] for i in labels])


def _as_classes(names: list[str]) -> list[dict]:
    return [
        {"label": i, "category_id": i, "original_category_id": i, "name": name}
        for i, name in enumerate(names, start=1)
    ]


def _check_fit(
    path: Path, labels: Path, net: str, model: SSD, weights: dict[str, Tensor], num_names: int
) -> None:
    own = model.state_dict()
    *_, score_bias = score_tensors(model)
    if weights.keys() == own.keys() and weights[score_bias].shape != own[score_bias].shape:
        in_file = weights[score_bias].shape[0] // model.network.num_priors[-1] - 1
        raise ValueError(f"{path}: has {in_file} classes, {labels} has {num_names}")
    if problem := _misfit(model, weights):
        raise ValueError(f"{path}: not weights of {net}: {problem}")


def _misfit(model: SSD, weights: dict[str, Tensor]) -> str | None:
    """Say which tensors are not as the model's own; None if all are."""
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    other = [
        name
        for name in own.keys() & weights.keys()
        if getattr(weights[name], "shape", None) != own[name].shape
    ]
    if not (missing or unknown or other):
        return None
    return (
        f"{len(missing)} tensors missing, {len(unknown)} unknown, {len(other)} of another shape, "
        f"such as {(missing or unknown or sorted(other))[0]}"
    )
