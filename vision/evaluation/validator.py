"""Measures a model on the val split, from time to time during training."""

from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import nn

from vision.datasets.loader import DetectionLoader
from vision.engine import distributed
from vision.engine.signals import StoppableLoader, StopSignals
from vision.evaluation.coco_arrays import match_boxes
from vision.evaluation.coco_boxes import GroundTruth
from vision.evaluation.evaluate import EvaluationResult, evaluate
from vision.evaluation.thresholds import class_thresholds
from vision.files.available_memory import give_back_freed_memory
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ssd.loss import MultiBoxLoss


@dataclass
class Validator:
    """Measures a model's loss and COCO numbers, always on the same images.

    Attributes:
        loader: their batches, not augmented.
        ground_truth: their boxes.
        class_names: of labels 1..C.
        loss_fn: of the run.
        device: of the model.
        every: epochs between two measurements; 0: only after the last.
        min_precision: wanted of each class, for `thresholds`; None: none.
        result: of the newest `validate`, in the main process; None before it and in others.
    """

    loader: DetectionLoader
    _: KW_ONLY
    ground_truth: GroundTruth
    class_names: list[str]
    loss_fn: MultiBoxLoss
    device: torch.device
    every: int
    min_precision: float | None = None
    result: EvaluationResult | None = field(default=None, init=False)

    def is_due(self, epoch: int, *, last_epoch: int) -> bool:
        """Tell whether to measure after this epoch (1-based)."""
        return epoch == last_epoch or (self.every > 0 and epoch % self.every == 0)

    def measure(
        self, model: nn.Module, signals: StopSignals | None = None
    ) -> EvaluationResult | None:
        """Measure a model; it may be one in training.

        Args:
            model: gives cls_logits and bbox_regression for images [B, 3, H, W].
            signals: looked at before each batch; raise Interrupted there.

        Returns:
            The result in the main process, None in others.
        """
        if self.device.type == "cpu":
            give_back_freed_memory()
        return evaluate(
            optimize_for_inference(model),
            self.loader if signals is None else StoppableLoader(self.loader, signals),
            ground_truth=self.ground_truth,
            class_names=self.class_names,
            device=self.device,
            loss_fn=self.loss_fn,
        )

    def validate(self, model: nn.Module, signals: StopSignals) -> dict:
        """Measure a model; return what metrics.jsonl holds of it, in all processes."""
        self.result = self.measure(model, signals)
        return distributed.on_main_process(EvaluationResult.as_record)(self.result)

    def thresholds(self) -> list[dict[str, float]] | None:
        """Return which scores to ask for of labels 1..C, by the newest `validate`.

        They are `best_f1` and `at_precision`, where there is one. None in all processes but the
        main one.
        """
        if self.result is None:
            return None
        matches = match_boxes(self.ground_truth, self.result.detections)
        chosen = class_thresholds(matches, len(self.class_names), precision=self.min_precision)
        return [choices.scores() for choices in chosen]
