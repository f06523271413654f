"""The training loop."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from vision.datasets.loader import DetectionLoader
from vision.engine.metrics import peak_memory_mb
from vision.engine.nonfinite import MAX_IN_A_ROW, NonFiniteError, report_nonfinite
from vision.engine.optim import set_train_mode
from vision.engine.precision import autocast
from vision.engine.saver import RunSaver
from vision.engine.signals import Interrupted, StopSignals
from vision.engine.state import TrainingState
from vision.ssd.loss import MultiBoxLoss
from vision.transforms.normalize import normalize_images

logger = logging.getLogger(__name__)
LOSS_TERMS = ("loss", "loss_classification", "loss_regression")


@dataclass(frozen=True)
class StepOptions:
    """How a step is made.

    Attributes:
        device: where.
        precision: fp32, bf16 or fp16, of the network's forward pass; the loss is always fp32.
        clip_grad_norm: largest norm of the gradient; 0 leaves it.
        skip_nonfinite: go on after a step whose loss or gradient is not finite, up to 10 in a row.
    """

    device: torch.device
    precision: str = "fp32"
    clip_grad_norm: float = 0.0
    skip_nonfinite: bool = False


def fit(
    state: TrainingState,
    *,
    epochs: int,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    options: StepOptions,
    evaluate_epoch: Callable[[TrainingState, Callable[[], None]], dict],
    saver: RunSaver,
) -> None:
    """Train until `epochs` epochs are done, saving after each.

    Args:
        state: where to start from, changed in place; inside an epoch, only the rest of it is done.
        epochs: whole epochs of the run, those done before included.
        loader: training batches.
        loss_fn: gives the loss terms.
        options: of each step.
        evaluate_epoch: gets the state and a function to call often, which raises when training is
            to stop; returns validation metrics, empty when this epoch has none.
        saver: writes checkpoints and metrics.

    Raises:
        Interrupted: a signal came; the state is saved.
        NonFiniteError: a step could not be taken.
        OSError: the state could not be saved.
    """
    with StopSignals() as signals, saver:
        try:
            while state.epoch < epochs:
                train_metrics = train_one_epoch(
                    state, loader, loss_fn, options=options, saver=saver, check=signals.check
                )
                # Validation may start processes, which would inherit a file being written.
                saver.wait()
                start = time.perf_counter()
                val_metrics = evaluate_epoch(state, signals.check)
                val_metrics["eval_seconds"] = time.perf_counter() - start
                state.finish_epoch(val_metrics.get("AP"))
                record = {"epoch": state.epoch, "step": state.step, **train_metrics, **val_metrics}
                saver.save_epoch(state, record)
                logger.info(epoch_line(record, epochs))
        except Interrupted:
            saver.save_step(state)
            saver.wait()
            raise


def train_one_epoch(
    state: TrainingState,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
    saver: RunSaver,
    check: Callable[[], None],
) -> dict:
    """Do the rest of the epoch that `state.progress` is in, and return its metrics."""
    set_train_mode(state.model)
    progress = state.progress
    # The schedule's step: that of the run, unless the number of batches has changed since.
    epoch_start = state.epoch * loader.num_batches
    loader.set_position(state.epoch, start_batch=progress["batches"])
    num_images, data_wait = 0, 0.0
    start = waiting_since = time.perf_counter()
    bar = tqdm(loader, desc=f"epoch {state.epoch + 1}", leave=False, disable=None)
    for images, targets in bar:
        data_wait += time.perf_counter() - waiting_since
        state.schedule.apply(state.optimizer, epoch_start + progress["batches"])
        values, is_finite = train_step(state, images, targets, loss_fn, options=options)
        if not is_finite:
            _handle_nonfinite(state, values, images, targets, saver=saver, options=options)
        _count_step(state, values, is_finite=is_finite)
        num_images += len(targets)
        bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        check()
        saver.after_step(state)
        waiting_since = time.perf_counter()
    seconds = time.perf_counter() - start
    # Again, for an epoch whose steps were all done before a resume.
    state.schedule.apply(state.optimizer, epoch_start + progress["batches"] - 1)
    taken = progress["batches"] - progress["nonfinite"]
    return {
        "lr": max(group["lr"] for group in state.optimizer.param_groups),
        **{name: progress[name] / taken if taken else math.nan for name in LOSS_TERMS},
        "nonfinite_steps": progress["nonfinite"],
        "images_per_second": num_images / seconds,
        "data_wait": data_wait / seconds,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def train_step(
    state: TrainingState,
    images: Tensor,
    targets: list[dict],
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
) -> tuple[dict[str, float], bool]:
    """Take one optimizer step, unless its loss or gradient is not finite.

    Args:
        state: its model, optimizer, scaler and average are changed in place.
        images: uint8 [B, 3, H, W].
        targets: boxes in pixels of the input, labels, iscrowd; a dict an image.
        loss_fn: gives the loss terms.
        options: of the step.

    Returns:
        The loss terms, `grad_norm`, `lr` and, with fp16, the `scale`; and whether they are finite
        and the step was taken.
    """
    device = options.device
    inputs = normalize_images(images.to(device, non_blocking=True))
    targets = [
        {k: v.to(device, non_blocking=True) for k, v in t.items() if isinstance(v, Tensor)}
        for t in targets
    ]
    statistics = [buffer.clone() for buffer in state.model.buffers()]
    with autocast(options.precision, device):
        cls_logits, bbox_regression = state.model(inputs)
    losses = loss_fn(cls_logits, bbox_regression, targets)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(losses["loss"]).backward()
    state.scaler.unscale_(state.optimizer)
    params = [p for group in state.optimizer.param_groups for p in group["params"]]
    grad_norm = clip_grad_norm_(params, options.clip_grad_norm or math.inf)
    values = torch.stack([*(losses[name].detach() for name in LOSS_TERMS), grad_norm]).tolist()
    values = dict(zip((*LOSS_TERMS, "grad_norm"), values, strict=True))
    values["lr"] = state.optimizer.param_groups[0]["lr"]
    checked = [values["loss"], values["grad_norm"]]
    if state.scaler.is_enabled():
        values["scale"] = state.scaler.get_scale()
        if values["scale"] >= 1:
            # The scaler itself leaves out steps whose scaled gradient overflowed.
            checked.pop()
    is_finite = all(map(math.isfinite, checked))
    if is_finite:
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema:
            state.ema.update(state.model, step=state.step + 1)
    else:  # the forward pass has moved BatchNorm's statistics: take that back
        state.scaler.update()
        for buffer, before in zip(state.model.buffers(), statistics, strict=True):
            buffer.copy_(before)
    return values, is_finite


def _count_step(state: TrainingState, values: dict[str, float], *, is_finite: bool) -> None:
    """Add a step to the run and, if it was taken, its loss to the epoch's sums."""
    state.step += 1
    state.progress["batches"] += 1
    if is_finite:
        for name in LOSS_TERMS:
            state.progress[name] += values[name]
        state.progress["nonfinite_in_a_row"] = 0
    else:
        state.progress["nonfinite"] += 1
        state.progress["nonfinite_in_a_row"] += 1


def _handle_nonfinite(
    state: TrainingState,
    values: dict[str, float],
    images: Tensor,
    targets: list[dict],
    *,
    saver: RunSaver,
    options: StepOptions,
) -> None:
    """Report a step that was not taken; raise NonFiniteError unless it is to be skipped."""
    line = report_nonfinite(
        saver.run, step=state.step, values=values, images=images, targets=targets
    )
    if not options.skip_nonfinite:
        raise NonFiniteError(line)
    logger.error("step skipped: %s", line)
    if state.progress["nonfinite_in_a_row"] + 1 >= MAX_IN_A_ROW:
        raise NonFiniteError(f"{MAX_IN_A_ROW} steps in a row were not finite; {line}")


def epoch_line(record: dict, epochs: int) -> str:
    """Say in one line how an epoch went."""
    parts = [f"epoch {record['epoch']}/{epochs}", f"loss {record['loss']:.4f}"]
    if "val_loss" in record:
        parts.append(f"val loss {record['val_loss']:.4f}")
    if record.get("AP") is not None:
        parts.append(f"AP {record['AP']:.4f} AP50 {record['AP50']:.4f}")
    parts += [
        f"lr {record['lr']:.2g}",
        f"{record['images_per_second']:.1f} images/s",
        f"{record['data_wait']:.0%} waiting for data",
        f"{record['seconds']:.0f}+{record['eval_seconds']:.0f} s",
        f"{record['peak_memory_mb']:.0f} MB",
    ]
    return ", ".join(parts)
