"""A network in torch that gives what exported files give."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vision.datasets.image_files import read_image
from vision.deploy.detect import Detections, Image
from vision.deploy.load_predictor import DTYPES, Resize
from vision.deploy.predictor import Predictor
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.precision import choose_device, choose_precision
from vision.evaluation.exported import SCORE_THRESHOLD
from vision.evaluation.thresholds import preferred
from vision.runs.load_model import load_for_inference
from vision.ssd.ssd import SSD
from vision.transforms.normalize import normalize_images


class TorchDetector:
    """The predictor, with the results of `vision.deploy.detect`.

    Args:
        model: the network.
        classes: dicts of label, category_id, original_category_id and name, and of thresholds
            where they are known.
        threshold: lowest score of a detection; None: of each class what its thresholds say.
        default_threshold: where they say nothing.
        iou_threshold: of the suppression; None: the network's.
        voting_iou: of box voting; None: the network's.
        device: where to run.
        dtype: of weights and activations.
    """

    def __init__(
        self,
        model: SSD,
        classes: list[dict],
        *,
        threshold: float | None = None,
        default_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float | None = None,
        voting_iou: float | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.names = ["BACKGROUND", *(item["name"] for item in classes)]
        self._category_ids = np.array([0, *(item["category_id"] for item in classes)])
        own = [preferred(item.get("thresholds", {})) for item in classes]
        scores = [default_threshold if score is None else score for score in own]
        if threshold is not None:
            scores = [threshold] * len(classes)
        self._thresholds = np.array([1.0, *scores], np.float32)  # by label
        self._predictor = Predictor(
            model,
            self.names[1:],
            read_image=read_image,
            resize=Resize(model.image_size, model.network.resize),
            normalize=partial(normalize_images, **vars(model.network.normalization)),
            device=device,
            dtype=dtype,
            score_threshold=float(self._thresholds[1:].min()),
            iou_threshold=iou_threshold,
            voting_iou=voting_iou,
        )

    @property
    def votes(self) -> bool:
        """Whether it moves boxes by box voting."""
        return self._predictor.voting_iou > 0

    def predict(self, images: Image | Sequence[Image]) -> Detections | list[Detections]:
        """Detect objects in one image (a path, or uint8 [H, W, 3] RGB), or in each of a list."""
        found = self._predictor(images)
        return self._name(found) if isinstance(found, dict) else [self._name(x) for x in found]

    def _name(self, found: dict) -> Detections:
        labels, scores = found["labels"].numpy(), found["scores"].numpy()
        shown = scores >= self._thresholds[labels]
        labels = labels[shown]
        return Detections(
            xyxy=found["boxes"].numpy()[shown],
            confidence=scores[shown],
            class_id=labels,
            names=[self.names[label] for label in labels],
            category_id=self._category_ids[labels],
        )


def load_torch_detector(
    path: str | Path,
    *,
    threshold: float | None,
    default_threshold: float,
    iou_threshold: float | None = None,
    net: str | None = None,
    label_file: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    tiles: int | None = None,
    box_voting: float | None = None,
) -> TorchDetector:
    """Load a run folder, a checkpoint or a weight file; the arguments are those of Detector.load.

    Raises:
        ValueError: the file is damaged or of another network, or the device is absent.
        OSError: the file cannot be read.
    """
    model, classes, _ = load_for_inference(path, net=net, label_file=label_file, tiles=tiles)
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    return TorchDetector(
        model,
        classes,
        threshold=threshold,
        default_threshold=default_threshold,
        iou_threshold=iou_threshold,
        voting_iou=box_voting,
        device=chosen,
        dtype=DTYPES[choose_precision(precision, chosen)],
    )
