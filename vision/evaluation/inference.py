"""Inference on all batches of a loader, and merging the results of several processes."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from vision.engine.metrics import show_progress
from vision.engine.precision import autocast
from vision.evaluation.coco_boxes import Detections, DetectionsBuffer
from vision.ops.tiles import join_views
from vision.ssd.postprocess import select_detections
from vision.transforms.normalize import normalize_images

Batch = tuple[Tensor, list[dict]]
LossFunction = Callable[[Tensor, Tensor, list[dict]], dict[str, Tensor]]


@dataclass
class Inference:
    """The results of one process, for its share of the images.

    Attributes:
        detections: their `image_index` is the image's position in the data set.
        image_index: int64 [I], the images processed.
        top_scores: float64 [C], the highest score of each class, also below the score threshold.
        batch_losses: for each batch, its first image and {term: sum over its images}; empty without
            a loss function.
        seconds: time spent on `data`, `inference`, `loss` and `postprocess`.
    """

    detections: Detections
    image_index: np.ndarray
    top_scores: np.ndarray
    batch_losses: list[tuple[int, dict[str, float]]]
    seconds: dict[str, float]


@torch.inference_mode()
def run_inference(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    device: torch.device,
    precision: str,
    loss_fn: LossFunction | None,
    score_threshold: float | None,
    iou_threshold: float | None,
) -> Inference:
    """Run the model on all batches of a loader; arguments as for `evaluate`."""
    settings = model.network.postprocessing.changed(
        score_threshold=score_threshold, iou_threshold=iou_threshold
    )
    watch = _Stopwatch(device)
    found = DetectionsBuffer()
    seen: list[int] = []
    top_scores = torch.zeros(model.num_classes - 1)
    batch_losses: list[tuple[int, dict[str, float]]] = []
    model.eval()
    for images, targets in show_progress(loader, "evaluate"):
        watch.lap("data")
        inputs = normalize_images(
            images.to(device, non_blocking=True), **vars(model.network.normalization)
        )
        with autocast(precision, device):
            cls_logits, bbox_regression = model(inputs)
        cls_logits, bbox_regression = cls_logits.float(), bbox_regression.float()
        watch.lap("inference")
        if loss_fn:
            losses = loss_fn(cls_logits, bbox_regression, _to_device(targets, device))
            num_images = len({target["index"] for target in targets})
            batch_losses.append((targets[0]["index"], _image_sums(losses, num_images)))
        watch.lap("loss")
        scores = cls_logits.softmax(dim=-1)
        best = scores.amax(dim=0).amax(dim=0)[1:]  # 8 times as fast as amax(dim=(0, 1))
        top_scores = torch.maximum(top_scores, best.cpu())
        results = select_detections(
            scores,
            bbox_regression,
            model.priors_cxcywh,
            torch.tensor([_seen_size(target) for target in targets], device=device),
            **asdict(settings),
        )
        positions = [target["index"] for target in targets]
        if "view" in targets[0]:
            results, positions = _join(results, targets, iou_threshold=settings.iou_threshold)
        found.add(_to_arrays(results, positions))
        seen += positions
        watch.lap("postprocess")
    return Inference(
        detections=found.gathered(),
        image_index=np.array(seen, np.int64),
        top_scores=top_scores.double().numpy(),
        batch_losses=batch_losses,
        seconds=watch.seconds,
    )


def merge_inference(parts: list[Inference]) -> Inference:
    """Merge the results of several processes, in the order of the images.

    The result is equal to that of one process, bit for bit if the batches are the same.
    """
    detections = Detections.concatenate([part.detections for part in parts])
    in_order = np.argsort(detections.image_index, kind="stable")
    losses = sorted((item for part in parts for item in part.batch_losses), key=lambda x: x[0])
    return Inference(
        detections=detections.take(in_order),
        image_index=np.sort(np.concatenate([part.image_index for part in parts])),
        top_scores=np.max([part.top_scores for part in parts], axis=0),
        batch_losses=losses,
        seconds={name: max(part.seconds[name] for part in parts) for name in parts[0].seconds},
    )


class _Stopwatch:
    """Adds up the seconds between laps, by name; waits for CUDA's asynchronous work first."""

    def __init__(self, device: torch.device):
        self.seconds = {"data": 0.0, "inference": 0.0, "loss": 0.0, "postprocess": 0.0}
        self._device = device
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last call to the seconds of `name`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[name] += now - self._since
        self._since = now


def _seen_size(target: dict) -> tuple[int, int]:
    """Return (height, width) of what the network saw of an image, in its pixels."""
    if "view" not in target:
        return target["orig_size"]
    x1, y1, x2, y2 = target["view"]
    return y2 - y1, x2 - x1


def _join(
    results: list[dict[str, Tensor]], targets: list[dict], *, iou_threshold: float
) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Join the views of each image, which a batch has one after the other and all of them."""
    joined, positions = [], []
    pairs = zip(results, targets, strict=True)
    for position, of_image in groupby(pairs, key=lambda pair: pair[1]["index"]):
        found, seen = zip(*of_image, strict=True)
        views = [target["view"] for target in seen]
        joined.append(join_views(found, views, iou_threshold=iou_threshold))
        positions.append(position)
    return joined, positions


def _image_sums(losses: dict[str, Tensor], num_images: int) -> dict[str, float]:
    return {
        name: value.item() * num_images for name, value in losses.items() if name.startswith("loss")
    }


def _to_device(targets: list[dict], device: torch.device) -> list[dict]:
    return [
        {key: value.to(device) for key, value in target.items() if isinstance(value, Tensor)}
        for target in targets
    ]


def _to_arrays(results: list[dict[str, Tensor]], positions: list[int]) -> Detections:
    """Join the detections of a batch; boxes become xywh in float64, as COCO's evaluation uses."""
    boxes = torch.cat([result["boxes"] for result in results]).double().cpu().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        image_index=np.repeat(positions, [len(result["scores"]) for result in results]),
        labels=torch.cat([result["labels"] for result in results]).cpu().numpy(),
        boxes_xywh=boxes,
        scores=torch.cat([result["scores"] for result in results]).double().cpu().numpy(),
    )
