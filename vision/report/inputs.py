"""What a report is made from: a validation's result, and the run folder beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from vision.datasets.layouts.layout import Source
from vision.engine.metrics import MetricsLog
from vision.evaluation.coco_boxes import Detections, GroundTruth
from vision.ops.priors import PriorMap
from vision.ops.tiles import num_views, whole_size
from vision.priors.boxes import seen_in_views
from vision.priors.coverage import best_prior_iou
from vision.runs.run_folder import read_config
from vision.ssd.ssd import SSD
from vision.ssd.torchvision_ssd import NamedClasses

Sources = list[Source]
_LARGEST_DRAWN = 1e30


def locate_image(sources: Sources, image: int) -> tuple[str, str, tuple[int, int]]:
    """Return the path, the name and the (height, width) of the image at a position of the data."""
    ends = np.cumsum([len(index) for index, _ in sources])
    number = int(np.searchsorted(ends, image, side="right"))
    index, folder = sources[number]
    row = image - int(ends[number] - len(index))
    name = index.file_name(row)
    return f"{folder}/{name}", name, tuple(index.sizes[row].tolist())


@dataclass(frozen=True)
class NetworkFacts:
    """What the report says of a network.

    Attributes:
        name: such as mb2-ssd-lite.
        image_size: input (height, width).
        priors_cxcywh: float32 [P, 4] in 0..1; None and the following, too: an exported file, which
            does not say.
        feature_map_sizes: (height, width) of each map, largest first.
        prior_maps: from which the priors were made, one of each map.
        num_parameters: trained numbers.
        macs: multiplications with an addition, for one pass.
        tiles: along each side of an image, which is then looked at whole and in tiles.
    """

    name: str
    image_size: tuple[int, int]
    priors_cxcywh: np.ndarray | None = None
    feature_map_sizes: Sequence[tuple[int, int]] = ()
    prior_maps: Sequence[PriorMap] = ()
    num_parameters: int | None = None
    macs: int | None = None
    tiles: int = 1

    @property
    def photo_size(self) -> tuple[int, int]:
        """(height, width) of a photo of which the network sees each pixel, in tiles if it has."""
        return whole_size(self.image_size, self.tiles)

    @property
    def num_views(self) -> int:
        """How often it runs for an image."""
        return num_views(self.tiles)

    @property
    def description(self) -> str:
        """Name, input and tiles."""
        in_tiles = f", whole and in {self.tiles}x{self.tiles} tiles," if self.tiles > 1 else ""
        return f"{self.name} at {self.image_size[0]}x{self.image_size[1]}{in_tiles}"

    def prior_ious(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Return the IoU of boxes [N, 4], in 0..1 of their images, with the best prior: [N].

        With tiles the best of all views.
        """
        seen, rows = seen_in_views(boxes_xyxy, self.tiles)
        best = np.zeros(len(boxes_xyxy), np.float32)
        np.maximum.at(best, rows, best_prior_iou(seen, self.priors_cxcywh))
        return best


@torch.no_grad()
def describe_network(model: SSD | NamedClasses) -> NetworkFacts:
    """Count parameters and multiplications; runs one black image through the network."""
    detector = model.detector if isinstance(model, NamedClasses) else model
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *model.network.image_size, device=device))
    model.train(was_training)
    return NetworkFacts(
        name=model.network.name,
        image_size=model.network.image_size,
        priors_cxcywh=model.priors_cxcywh.cpu().numpy(),
        feature_map_sizes=detector.feature_map_sizes(),
        prior_maps=model.network.priors,
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        tiles=model.network.tiles,
    )


@dataclass(frozen=True)
class Validation:
    """A measured model, and the data it was measured on.

    Attributes:
        metrics: as `evaluate_boxes` returns them.
        detections: positions of images as in the ground truth, labels 1..C.
        ground_truth: every annotated box, labels 1..C.
        class_names: of labels 1..C.
        network: of the model.
        sources: the annotation files and image folders, in the ground truth's order of images.
        weights: what was evaluated: a run folder or a file.
        weights_flags: what else a command needs to load it.
        dataset: folder of the data, for messages.
        dataset_flags: what eval_ssd.py needs to read each source; empty: --dataset and `dataset`.
        split: such as val.
        train_sources: the training split, where it is known.
        command: the words of the command that this came from.
        score_threshold: of the detections.
        iou_threshold: of the suppression of overlapping boxes.
        voting_iou: lowest overlap of a box that had a vote on a detection's place; 0: no voting.
        epoch: of a run in training; None where a finished model was evaluated.
    """

    metrics: dict
    detections: Detections
    ground_truth: GroundTruth
    class_names: list[str]
    network: NetworkFacts
    sources: Sources
    weights: str
    dataset: str
    split: str = "val"
    train_sources: Sources | None = None
    weights_flags: Sequence[str] = ()
    dataset_flags: Sequence[Sequence[str]] = ()
    command: Sequence[str] = ()
    score_threshold: float = 0.01
    iou_threshold: float = 0.45
    voting_iou: float = 0.0
    epoch: int | None = None


@dataclass(frozen=True)
class RunHistory:
    """A run folder's config.json and metrics.jsonl; without a folder, empty."""

    folder: Path | None = None
    config: dict = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)

    @property
    def arguments(self) -> dict:
        """The run's arguments."""
        return self.config.get("arguments", {})

    def column(self, name: str) -> np.ndarray:
        """One number of each epoch, float64 [E]; NaN where an epoch has none that can be drawn."""
        values = [record.get(name) for record in self.records]
        return np.array([value if _is_drawn(value) else np.nan for value in values], float)

    @property
    def resumes(self) -> list[dict]:
        """Where the run was resumed: `epoch`, `step` and `changes`, {name: [before, now]}."""
        changed = self.config.get("history") or []
        places = {(entry.get("epoch"), entry.get("step")) for entry in changed}
        resumes = self.config.get("resumes") or []
        others = {(entry.get("epoch"), entry.get("step")) for entry in resumes} - places
        plain = [{"epoch": epoch, "step": step, "changes": {}} for epoch, step in others]
        return sorted([*changed, *plain], key=lambda entry: entry.get("step") or 0)

    @property
    def epochs(self) -> np.ndarray:
        """int64 [E], from 1."""
        return np.array([record["epoch"] for record in self.records], int)


def _is_drawn(value: object) -> bool:
    """Also in an edited file: matplotlib refuses infinities, and what its axes overflow with."""
    return isinstance(value, (int, float)) and abs(value) < _LARGEST_DRAWN


def read_history(folder: Path | None) -> RunHistory:
    """Read what a run folder says of its training, as far as it is there.

    Raises:
        ValueError: a file is not JSON, or not of the form that train_ssd.py writes.
        OSError: a file cannot be read.
    """
    if folder is None or not (folder / "config.json").is_file():
        return RunHistory(folder)
    return RunHistory(folder, read_config(folder), MetricsLog(folder / "metrics.jsonl").records)
