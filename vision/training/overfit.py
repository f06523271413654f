"""Can the network, the loss and the decoding learn a few images? And if not, what looks wrong?"""

import dataclasses
import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from vision.args import TrainArguments
from vision.datasets.coco import CocoDetection
from vision.datasets.loader import DetectionLoader
from vision.engine.optim import set_train_mode
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.evaluation.validator import Validator
from vision.ops.box_coder import cxcywh_to_xyxy, encode_boxes
from vision.ops.tiles import num_views
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.network import Normalization
from vision.ssd.ssd import SSD
from vision.training.build import (
    build_loss,
    build_network,
    build_state,
    build_validator,
    open_data,
    prepare_machine,
)
from vision.training.data import DataSplit
from vision.transforms.presets import build_train_transform

logger = logging.getLogger(__name__)
TARGET_AP50 = 0.9
MAX_STEPS = 300


@dataclass
class OverfitResult:
    """What `overfit` found.

    Attributes:
        ap50: on the images trained on.
        ceiling_ap50: of predictions made from the matched targets themselves: what the priors, the
            coding and the suppression allow.
        suspects: what looks wrong, a line each; empty when `ap50` is over 0.9.
    """

    ap50: float
    ceiling_ap50: float
    suspects: list[str]


def overfit(args: TrainArguments, *, max_steps: int = MAX_STEPS, rounds: int = 5) -> OverfitResult:
    """Train a new network on `args.overfit` images until AP50 on them is over 0.9.

    Args:
        args: of the run; its images are not augmented.
        max_steps: of training.
        rounds: how often to look at the AP on the way.
    """
    options = step_options(args)
    data = open_data(args)
    model = build_network(args, data, options=options)
    loss_fn = build_loss(args, model)
    loader = build_fixed_loader(args, data.train, normalization=model.network.normalization)
    validator = build_validator(
        args, data.train, loss_fn, device=options.device, num_images=args.overfit
    )
    steps = loader.num_batches
    state = build_state(args, model, options=options, steps_per_epoch=steps, total_steps=max_steps)
    return learn(
        state, loader, loss_fn, options=options, validator=validator, max_steps=max_steps,
        rounds=rounds,
    )  # fmt: skip


def step_options(args: TrainArguments) -> StepOptions:
    """Choose device and number format: float32 unless told.

    BatchNorm over a few images, on 1x1 maps, blows up bf16's rounding.
    """
    options = prepare_machine(args)
    return dataclasses.replace(options, precision="fp32") if args.precision == "auto" else options


def build_fixed_loader(
    args: TrainArguments, split: DataSplit, *, normalization: Normalization
) -> DetectionLoader:
    """Make batches of the first images with boxes, not augmented."""
    transform = build_train_transform(
        "none", image_size=args.image_size, mean=normalization.mean, resize=args.resize
    )
    chosen = split.images_with_boxes(args.overfit)
    places = np.indices((len(chosen), num_views(args.tiles))).reshape(2, -1).T
    dataset = CocoDetection(
        split.sources,
        transform=transform,
        seed=args.seed,
        image_indices=chosen,
        tiles=args.tiles,
        views=places if args.tiles > 1 else None,  # all of them, as the validator has them
    )
    if len(dataset) < 2:
        raise ValueError(f"--datasets: {len(dataset)} images with boxes; --overfit needs 2 or more")
    return DetectionLoader(
        dataset,
        batch_size=min(args.batch_size, len(dataset)),
        num_workers=args.workers,
        seed=args.seed,
        shuffle=True,
    )


def learn(
    state: TrainingState,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
    validator: Validator,
    max_steps: int,
    rounds: int,
) -> OverfitResult:
    """Train on the loader's images until AP50 on them is over 0.9, or for `max_steps` steps.

    Args:
        state: a fresh network; its schedule ends at `max_steps`.
        loader: the images.
        loss_fn: of the run.
        options: of each step.
        validator: of the same images.
        max_steps: of training.
        rounds: how often to look at the AP on the way.
    """
    perfect = validator.measure(PerfectPredictions(state.model, loss_fn, loader))
    ceiling = perfect.metrics["AP50"] or 0.0
    first_loss = last_loss = None
    while state.step < max_steps:
        stop = state.step + -(-max_steps // rounds)
        last_loss = _train_until(stop, state, loader, loss_fn, options=options)
        first_loss = first_loss or last_loss
        result = validator.measure(state.evaluated_model)
        ap50 = result.metrics["AP50"] or 0.0
        logger.info("step %d: loss %.4f, AP50 %.3f", state.step, last_loss, ap50)
        if ap50 > TARGET_AP50:
            return OverfitResult(ap50, ceiling, [])
    suspects = _suspects(ceiling, first_loss, last_loss, result.top_scores, loader, loss_fn)
    return OverfitResult(ap50, ceiling, suspects)


def _train_until(
    stop: int,
    state: TrainingState,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
) -> float:
    """Train to step `stop`; return the mean loss of these steps."""
    set_train_mode(state.model)
    total, steps = 0.0, 0
    while state.step < stop:
        loader.set_position(state.epoch)
        for images, targets in loader:
            state.schedule.apply(state.optimizer, state.step)
            values, is_finite = train_step(state, images, targets, loss_fn, options=options)
            if not is_finite:
                raise ValueError(
                    f"step {state.step}: loss {values['loss']:.4g}, gradient "
                    f"{values['grad_norm']:.4g}, not finite; lower --lr, or train more images"
                )
            state.step += 1
            total, steps = total + values["loss"], steps + 1
        state.epoch += 1
    return total / steps


class PerfectPredictions(torch.nn.Module):
    """Predicts the matched targets themselves, for the images of a loader in order."""

    def __init__(self, model: SSD, loss_fn: MultiBoxLoss, loader: DetectionLoader):
        super().__init__()
        self.network, self.num_classes = model.network, model.num_classes
        self.register_buffer("priors_cxcywh", model.priors_cxcywh)
        self._loss_fn = loss_fn
        self._items = loader.dataset
        self._next = 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the matched labels, and the encoded boxes."""
        positions = range(self._next, self._next + len(images))
        self._next += len(images)
        targets = [self._items[position][1] for position in positions]
        keys = ("boxes", "labels", "iscrowd")
        targets = [{k: torch.as_tensor(t[k], device=images.device) for k in keys} for t in targets]
        labels, boxes = self._loss_fn.match(targets)
        encoded = encode_boxes(boxes, self.priors_cxcywh)
        cls_logits = torch.zeros(*labels.shape, self.num_classes, device=images.device)
        cls_logits.scatter_(2, labels.clamp(min=0)[..., None], 20.0)
        return cls_logits, torch.where(labels[..., None] > 0, encoded, 0.0)


def _suspects(
    ceiling: float,
    first_loss: float,
    last_loss: float,
    top_scores: dict[str, float],
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
) -> list[str]:
    """Say what may keep the network from learning the images."""
    lines = []
    if ceiling <= TARGET_AP50:
        lines.append(
            f"perfect predictions would reach AP50 {ceiling:.2f}: objects share their best prior; "
            "try a larger --image-size or smaller --prior-sizes"
        )
    if not last_loss < 0.5 * first_loss:
        lines.append(
            f"the loss went from {first_loss:.3f} to {last_loss:.3f}: the rate (--lr) is too low "
            "or too high, or layers are frozen"
        )
    unseen = [name for name, score in top_scores.items() if score < 0.1]
    if unseen:
        lines.append(f"never scored over 0.1: {', '.join(unseen)}; too rare in these images?")
    small = _share_without_prior(loader, loss_fn)
    if small > 0.2:
        lines.append(
            f"{small:.0%} of the boxes overlap no prior by {loss_fn.iou_threshold} or more: they "
            "are too small or too thin; try a larger --image-size or smaller --prior-sizes"
        )
    return lines or ["nothing stands out: try more images, or look at --dry-run's picture"]


def _share_without_prior(loader: DetectionLoader, loss_fn: MultiBoxLoss) -> float:
    """Return the share of boxes that match by their best prior alone, below the threshold."""
    priors = cxcywh_to_xyxy(loss_fn.priors_cxcywh).cpu()
    boxes = torch.cat([target["boxes"] for _, targets in loader for target in targets])
    best_iou = box_iou(boxes / loss_fn.box_scale.cpu(), priors).amax(dim=1)
    return float((best_iou < loss_fn.iou_threshold).float().mean())
