"""Reads tests/golden: what the original toolkit computed, in the shapes that our functions take."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
FACTS = json.loads((FOLDER / "facts.json").read_text())


class Matching(NamedTuple):
    """Objects of four images, and what became of the priors.

    Attributes:
        boxes: xyxy in 0..1, [N, 4] an image.
        labels: [N] an image.
        prior_labels: [4, P], 0 for the background.
        positive_targets: [K, 4], encoded, of the priors with a label, image by image.
    """

    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    prior_labels: Tensor
    positive_targets: Tensor


class Output(NamedTuple):
    """What the network gives for the four images.

    Attributes:
        cls_logits: [4, P, 4].
        bbox_regression: [4, P, 4], 0 where the file has none.
        has_box: bool [4, P], where the file has offsets.
        boxes: [K, 4], xyxy in 0..1, decoded from these offsets.
    """

    cls_logits: Tensor
    bbox_regression: Tensor
    has_box: Tensor
    boxes: Tensor


def keys_and_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict's keys in order, with their shapes."""
    rows = [line.split() for line in (FOLDER / "keys.txt").read_text().splitlines()]
    return {key: tuple(map(int, shape.split("x"))) if shape != "-" else () for key, shape in rows}


def priors() -> Tensor:
    """The priors, cxcywh in 0..1, [P, 4]."""
    return torch.from_numpy(np.load(FOLDER / "priors.npz")["priors_cxcywh"].T.copy())


def matching() -> Matching:
    """The objects and the priors' targets."""
    file = np.load(FOLDER / "matching.npz")
    counts = file["num_boxes"].tolist()
    return Matching(
        torch.from_numpy(file["gt_boxes"]).split(counts),
        torch.from_numpy(file["gt_labels"]).split(counts),
        torch.from_numpy(file["prior_labels"]).long(),
        torch.from_numpy(file["positive_targets"]),
    )


def output() -> Output:
    """The network's output."""
    file = np.load(FOLDER / "output.npz")
    is_exact, has_box = (
        np.unpackbits(file[name]).astype(bool).reshape(4, -1) for name in ("is_exact", "has_box")
    )
    logits, offsets = (np.zeros((*is_exact.shape, 4), np.float32) for _ in range(2))
    logits[is_exact], logits[~is_exact] = file["exact_logits"], file["other_logits"]
    offsets[has_box] = file["offsets"]
    return Output(*map(torch.from_numpy, (logits, offsets, has_box, file["boxes"])))
