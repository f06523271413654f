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
from vision.runs.run_folder import read_config
from vision.ssd.network import Network
from vision.ssd.ssd import SSD
from vision.ssd.torchvision_ssd import NamedClasses

Sources = list[Source]


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
        network: as it was built.
        priors_cxcywh: float32 [P, 4] in 0..1.
        feature_map_sizes: (height, width) of each map, largest first.
        num_parameters: trained numbers.
        macs: multiplications with an addition, for one image.
    """

    network: Network
    priors_cxcywh: np.ndarray
    feature_map_sizes: list[tuple[int, int]]
    num_parameters: int
    macs: int

    @property
    def name(self) -> str:
        """Such as mb2-ssd-lite."""
        return self.network.name

    @property
    def image_size(self) -> tuple[int, int]:
        """Input (height, width)."""
        return self.network.image_size


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
        network=model.network,
        priors_cxcywh=model.priors_cxcywh.cpu().numpy(),
        feature_map_sizes=detector.feature_map_sizes(),
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
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
        dataset_flags: what eval_ssd.py needs to read it; empty: --dataset and `dataset`.
        split: such as val.
        train_sources: the training split, where it is known.
        command: the words of the command that this came from.
        score_threshold: of the detections.
        iou_threshold: of the suppression of overlapping boxes.
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
    dataset_flags: Sequence[str] = ()
    command: Sequence[str] = ()
    score_threshold: float = 0.01
    iou_threshold: float = 0.45
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
        """One number of each epoch, float64 [E]; NaN where an epoch has none."""
        values = [record.get(name) for record in self.records]
        numbers = [value if isinstance(value, (int, float)) else np.nan for value in values]
        return np.array(numbers, float)

    @property
    def epochs(self) -> np.ndarray:
        """int64 [E], from 1."""
        return np.array([record["epoch"] for record in self.records], int)


def read_history(folder: Path | None) -> RunHistory:
    """Read what a run folder says of its training, as far as it is there.

    Raises:
        ValueError: a file is not JSON, or not of the form that train_ssd.py writes.
        OSError: a file cannot be read.
    """
    if folder is None or not (folder / "config.json").is_file():
        return RunHistory(folder)
    return RunHistory(folder, read_config(folder), MetricsLog(folder / "metrics.jsonl").records)
