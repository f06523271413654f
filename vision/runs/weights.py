"""Weights from elsewhere: backbones, the family's files, checkpoints with other classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.hub import get_dir

from vision.files.text import SHORT_TEXT, read_text
from vision.ops.priors import PriorMap
from vision.runs.checkpoint import FORMAT, read_checkpoint
from vision.runs.tensor_files import load_tensors
from vision.ssd.models import MODELS
from vision.ssd.network import Network
from vision.ssd.ssd import SSD

TORCHVISION = "torchvision"  # as a detector's weights: those that torchvision trained on COCO
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")


@dataclass
class LoadReport:
    """Names of the tensors that were loaded, adapted to other classes, or left as they were."""

    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} tensors loaded, "
            f"{len(self.adapted)} adapted to the classes{_modules_of(self.adapted)}, "
            f"{len(self.initialised)} initialised{_modules_of(self.initialised)}, "
            f"{len(self.unused)} of the file not used{_modules_of(self.unused)}"
        )


def _modules_of(names: list[str]) -> str:
    """Name the parts of the network that tensors belong to: ` (extras.0, extras.1)`."""
    modules = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
    shown = ", ".join(modules[:8]) + (", ..." if len(modules) > 8 else "")
    return f" ({shown})" if shown else ""


def read_coco_weights(network: Network) -> tuple[dict[str, Tensor], list[str | None]]:
    """Get torchvision's weights of this network, trained on COCO; it keeps the file it downloaded.

    Returns:
        The tensors, and the names of labels 1, 2, ...; None where COCO has no such class.

    Raises:
        ValueError: the download failed, or torchvision has no weights of this network.
    """
    from torchvision.models import get_weight

    if network.coco_weights is None:
        known = ", ".join(name for name, other in MODELS.items() if other.coco_weights)
        raise ValueError(f"torchvision has no trained {network.name}, only {known}")
    trained = get_weight(network.coco_weights)
    try:
        weights = trained.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, HTTPException) as error:
        raise ValueError(
            f"torchvision's weights of {network.name} could not be downloaded ({error}); fetch "
            f"{trained.url} where there is a network, and put it into {get_dir()}/checkpoints"
        ) from None
    _, *names = trained.meta["categories"]  # the first is the background
    return weights, [None if name == "N/A" else name for name in names]


def read_state_dict(path: str | Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Read the weights out of any file of the family.

    That is a bare state dict, a dict with it under `weights`, `state_dict` or `model`, or a
    checkpoint of this toolkit, of which the averaged weights are preferred.

    Returns:
        The tensors without `module.` prefixes, and the names of the file's foreground classes
        where it has them.

    Raises:
        ValueError: no weights in it, or a tensor that is not finite.
    """
    path = Path(path)
    content = load_tensors(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    class_names = None
    if content.get("format") == FORMAT:
        content = read_checkpoint(path)
        class_names = [item["name"] for item in content["classes"]]
        content = dict(content["ema"] or content["model"])
    else:
        for key in ("weights", "state_dict", "model"):
            if isinstance(content.get(key), dict):
                content = content[key]
                break
        labels = path.with_name("labels.txt")
        class_names = read_labels(labels) if labels.is_file() else None
    weights = {_WRAPPERS.sub("", str(k)): v for k, v in content.items() if isinstance(v, Tensor)}
    if not weights:
        raise ValueError(f"{path}: no weights found in it")
    for name, tensor in list(weights.items()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            if name.startswith("classifier."):  # torchvision's VGG16 for SSD comes without one
                del weights[name]
                continue
            raise ValueError(f"{path}: the tensor {name} is not finite; the file is of no use")
    return weights, class_names


def saved_priors(source: str | Path, network: Network) -> tuple[PriorMap, ...] | None:
    """Return the priors that a checkpoint of this toolkit keeps; None if there are none that fit.

    Args:
        source: what --pretrained-ssd takes.
        network: that is to start from it.
    """
    if source == TORCHVISION:
        return None
    content = load_tensors(Path(source))
    if not isinstance(content, dict) or content.get("format") != FORMAT or "priors" not in content:
        return None
    try:
        priors = network.with_numbers({"priors": content["priors"]}).priors
    except ValueError:
        return None
    return priors if [len(m.shapes) for m in priors] == network.num_priors else None


def read_labels(path: str | Path) -> list[str]:
    """Read the foreground classes of a labels.txt, one a line, BACKGROUND there or not.

    Raises:
        ValueError: a name stands there twice, there is none, or it is no text.
    """
    lines = read_text(path, most_bytes=SHORT_TEXT).splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if names and names[0].upper() == "BACKGROUND":
        names = names[1:]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(f"{path}: " + (f"{twice[0]!r} stands there twice" if twice else "empty"))
    return names


def load_base_net(model: SSD, source: str) -> LoadReport | None:
    """Load trained weights into the model's backbone.

    Args:
        model: the network.
        source: `none`, `imagenet` (torchvision's weights, through its own download), or a file in
            key names that the network knows, such as torchvision's or the family's.

    Raises:
        ValueError: the file does not fit, or the download failed.
    """
    if source == "none":
        return None
    network = model.network
    weights = _download_imagenet(network) if source == "imagenet" else read_state_dict(source)[0]
    weights = network.adapt_backbone(weights)
    own_names = network.backbone_names(weights.keys())
    weights = {own_name: weights[name] for name, own_name in own_names.items()}
    fits, report = _match(_backbone(model), weights)
    _check_matched(report.loaded, model, source)
    model.load_state_dict(fits, strict=False)
    return report


def load_pretrained_ssd(model: SSD, source: str | Path, *, class_names: list[str]) -> LoadReport:
    """Start from a trained detector, also one of other classes.

    Box regression knows no class and is kept. In the score heads, the background's rows and those
    of classes with the same name are kept; the rest stays as initialised. A bare
    state dict's names are those of a labels.txt beside it; without one, score heads are kept
    where their shape fits.

    Args:
        model: the network.
        source: any file that `read_state_dict` takes, or `torchvision` for its COCO weights of the
            same network, through its own download.
        class_names: the model's foreground classes, in the order of their labels.

    Raises:
        ValueError: too little of the backbone matches, or the download failed.
    """
    if source == TORCHVISION:
        weights, old_names = read_coco_weights(model.network)
    else:
        weights, old_names = read_state_dict(source)
    weights = dict(model.network.adapt_detector(weights))
    adapted = []
    if old_names is not None and old_names != class_names:
        own = model.state_dict()
        for name in score_tensors(model):
            if name in weights:
                new = _adapt_scores(weights[name], own[name], old_names, class_names)
                if new is not None:
                    weights[name] = new
                    adapted.append(name)
    fits, report = _match(model.state_dict(), weights)
    _check_matched(report.loaded, model, source)
    model.load_state_dict(fits, strict=False)
    report.adapted = adapted
    report.loaded = [name for name in report.loaded if name not in set(adapted)]
    return report


def score_tensors(model: SSD) -> list[str]:
    """Name the tensors whose rows are classes: the last convolution of each score head."""
    names = {module: name for name, module in model.named_modules()}
    last_layers = [
        [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)][-1]
        for head in model.classification_headers
    ]
    return [f"{names[layer]}.{kind}" for layer in last_layers for kind in ("weight", "bias")]


def _adapt_scores(
    old: Tensor, new: Tensor, old_names: Sequence[str | None], class_names: list[str]
) -> Tensor | None:
    """Make a score head's tensor for the new classes, same-named rows kept.

    Returns:
        The tensor, or None where the shapes are those of another network's head.
    """
    num_old, num_new = len(old_names) + 1, len(class_names) + 1
    if old.shape[1:] != new.shape[1:] or old.shape[0] * num_new != new.shape[0] * num_old:
        return None
    pairs = [(0, 0)] + [
        (old_names.index(class_name) + 1, label)
        for label, class_name in enumerate(class_names, start=1)
        if class_name in old_names
    ]
    old_rows = old.unflatten(0, (-1, num_old))  # [priors, classes, ...]
    adapted = new.clone().unflatten(0, (-1, num_new))
    for old_label, label in pairs:
        adapted[:, label] = old_rows[:, old_label].to(adapted.dtype)
    return adapted.flatten(0, 1)


def _backbone(model: SSD) -> dict[str, Tensor]:
    """Return the part of the state dict that is the backbone's."""
    prefixes = model.network.parts.backbone
    return {name: x for name, x in model.state_dict().items() if name.startswith(prefixes)}


def _match(
    own: dict[str, Tensor], weights: dict[str, Tensor]
) -> tuple[dict[str, Tensor], LoadReport]:
    """Choose what has the name and shape of one of the model's own tensors; load nothing yet."""
    fits = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    return fits, LoadReport(
        loaded=sorted(fits),
        initialised=sorted(own.keys() - fits.keys()),
        unused=sorted(weights.keys() - fits.keys()),
    )


def _check_matched(loaded: list[str], model: SSD, source: str | Path) -> None:
    """Refuse a file that fits too little of the backbone."""
    needed = [name for name in _backbone(model) if "num_batches_tracked" not in name]
    share = len(set(loaded) & set(needed)) / len(needed)
    if share < model.network.min_matched_backbone:
        raise ValueError(
            f"{source}: only {int(100 * share)}% of the backbone's tensors fit this network; "
            "is it for another network or width?"
        )


def _download_imagenet(network: Network) -> dict[str, Tensor]:
    """Get the network's trained backbone from torchvision, which keeps the file it downloaded.

    Raises:
        ValueError: the download failed, or the network has no such weights.
    """
    from torchvision.models import get_weight

    if network.imagenet_weights is None:
        raise ValueError(
            f"--base-net imagenet: torchvision has no backbone of {network.name}; "
            "give a file, or none"
        )
    try:
        return get_weight(network.imagenet_weights).get_state_dict(
            check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise ValueError(
            f"imagenet weights could not be downloaded ({error}); "
            "give a file to --base-net, or none"
        ) from None
