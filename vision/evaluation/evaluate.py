"""Evaluation: run a detector on a data set, compute COCO's numbers (training and eval_ssd.py)."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from vision.engine import distributed
from vision.evaluation.coco_boxes import Detections, GroundTruth
from vision.evaluation.coco_eval import check_evaluator, evaluate_boxes
from vision.evaluation.inference import Batch, LossFunction, merge_inference, run_inference


@dataclass
class EvaluationResult:
    """The measurements of a model on a data set.

    Attributes:
        metrics: the twelve COCO numbers and `per_class`, see `evaluate_boxes`.
        detections: all detections; image positions as in the ground truth.
        top_scores: {class: its highest score in any image, also below the score threshold}.
        losses: {term: mean over the images}; empty without a loss function.
        seconds: time spent on `data`, `inference`, `loss`, `postprocess` and `coco`.
    """

    metrics: dict
    detections: Detections
    top_scores: dict[str, float]
    losses: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_record(self) -> dict:
        """Return the entries for an epoch's line of metrics.jsonl."""
        losses = {f"val_{name}": value for name, value in self.losses.items()}
        numbers = {name: value for name, value in self.metrics.items() if name != "per_class"}
        seconds = {f"eval_{name}_seconds": value for name, value in self.seconds.items()}
        return {**losses, **numbers, **seconds}


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    ground_truth: GroundTruth,
    class_names: list[str],
    device: torch.device,
    precision: str = "fp32",
    loss_fn: LossFunction | None = None,
    evaluator: str = "fast",
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
) -> EvaluationResult | None:
    """Measure a model on a data set.

    Args:
        model: called with images [B, 3, H, W], returns cls_logits and bbox_regression; has
            `priors_cxcywh`, `num_classes` and `network`, whose normalisation and post-processing
            are used. It stays in evaluation mode.
        loader: batches of images uint8 [B, 3, H, W] and target dicts with `index` (the image's
            position in the ground truth), `orig_size` and, for a loss, boxes, labels and iscrowd.
        ground_truth: of the whole data set.
        class_names: of labels 1..C.
        device: where the model is.
        precision: fp32, bf16 or fp16, of the forward pass.
        loss_fn: if given, the loss is computed too, from the same forward pass.
        evaluator: a key of `coco_eval.EVALUATORS`.
        score_threshold: lowest score of a detection; None: the network's own.
        iou_threshold: that of non-maximum suppression; None: the network's own.

    Returns:
        The measurements; with several processes, which share the images, None in all but rank 0.

    Raises:
        ValueError: the evaluator cannot be used, or the loader's images are not those of the
            ground truth.
    """
    check_evaluator(evaluator)
    part = run_inference(
        model,
        loader,
        device=device,
        precision=precision,
        loss_fn=loss_fn,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
    )
    parts = distributed.gather(part)
    if not parts:
        return None
    whole = merge_inference(parts)
    num_seen = len(whole.image_index)
    if num_seen != ground_truth.num_images:
        raise ValueError(f"evaluated {num_seen} images of {ground_truth.num_images}")
    start = time.perf_counter()
    detections = ground_truth.counted(whole.detections)
    metrics = evaluate_boxes(ground_truth, detections, class_names=class_names, evaluator=evaluator)
    return EvaluationResult(
        metrics=metrics,
        detections=detections,
        top_scores=dict(zip(class_names, whole.top_scores.tolist(), strict=True)),
        losses=_mean_losses(whole.batch_losses, num_seen),
        seconds={**whole.seconds, "coco": time.perf_counter() - start},
    )


def _mean_losses(batch_losses: list[tuple[int, dict[str, float]]], num_images: int) -> dict:
    names = batch_losses[0][1] if batch_losses else ()
    return {name: sum(sums[name] for _, sums in batch_losses) / num_images for name in names}
