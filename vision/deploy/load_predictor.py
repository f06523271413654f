"""A predictor from a run folder or a weight file, in one call."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from vision.datasets.image_files import read_image
from vision.deploy.predictor import Predictor
from vision.engine.precision import choose_device, choose_precision
from vision.runs.load_model import load_for_inference
from vision.transforms.normalize import normalize_images
from vision.transforms.presets import build_eval_transform

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_predictor(
    path: str | Path,
    *,
    net: str | None = None,
    label_file: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    score_threshold: float = 0.3,
    iou_threshold: float | None = None,
    tiles: int | None = None,
) -> Predictor:
    """Load a trained detector; its images go the way of the images in evaluation.

    Args:
        path: a run folder, a checkpoint, a bare state dict of the family, or `torchvision` for
            its COCO weights of `net`.
        net: name of the network, for a bare state dict.
        label_file: its class names, for a bare state dict.
        device: auto, cpu, cuda, mps.
        precision: auto, fp32, bf16 or fp16.
        score_threshold: lowest score of a detection.
        iou_threshold: of the suppression of overlapping boxes of a class; None: the network's.
        tiles: look at each image whole and in so many overlapping tiles along each side; None: as
            it was trained.

    Raises:
        ValueError: the file is damaged or of another network, or the device is absent.
        OSError: the file cannot be read.
    """
    model, classes, _ = load_for_inference(path, net=net, label_file=label_file, tiles=tiles)
    chosen = choose_device(device)
    return Predictor(
        model,
        [item["name"] for item in classes],
        read_image=read_image,
        resize=Resize(model.image_size, model.network.resize),
        normalize=partial(normalize_images, **vars(model.network.normalization)),
        device=chosen,
        dtype=DTYPES[choose_precision(precision, chosen)],
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
    )


class Resize:
    """The evaluation transform for an image that has no boxes.

    Args:
        image_size: (height, width) of the result.
        resize: linear or point.
    """

    def __init__(self, image_size: tuple[int, int], resize: str = "linear"):
        self._transform = build_eval_transform(image_size, resize=resize)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Stretch uint8 [H, W, 3] to the size."""
        target = {
            "boxes": np.zeros((0, 4), np.float32),
            "labels": np.zeros(0, np.int64),
            "iscrowd": np.zeros(0, bool),
        }
        return self._transform(image, target, np.random.default_rng(0))[0]
