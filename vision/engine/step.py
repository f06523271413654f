"""One optimizer step: forward, loss, backward, update; skipped if not finite."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vision.engine import distributed
from vision.engine.precision import autocast
from vision.engine.state import TrainingState
from vision.ssd.loss import MultiBoxLoss
from vision.transforms.normalize import normalize_images

LOSS_TERMS = ("loss", "loss_classification", "loss_regression")


@dataclass(frozen=True)
class StepOptions:
    """Settings of a step.

    Attributes:
        device: where the model is.
        precision: fp32, bf16 or fp16, of the network's forward pass; the loss is always fp32.
        clip_grad_norm: largest norm of the gradient; 0: no clipping.
        skip_nonfinite: continue after a step whose loss or gradient is not finite; 10 such steps in
            a row still stop the run.
    """

    device: torch.device
    precision: str
    clip_grad_norm: float = 0.0
    skip_nonfinite: bool = False


def train_step(
    state: TrainingState,
    images: Tensor,
    targets: list[dict],
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
    is_padding: bool = False,
) -> tuple[dict[str, float], bool]:
    """Take one optimizer step, unless its loss or gradient is not finite.

    Args:
        state: its model, optimizer, scaler and EMA are changed in place.
        images: uint8 [B, 3, H, W].
        targets: one dict for each image: boxes [N, 4] in pixels of the input, labels [N] and
            iscrowd [N].
        loss_fn: computes the loss terms.
        options: settings of the step.
        is_padding: this process has no part of the batch and only makes the same calls as the
            others; its images count neither for the loss nor for the gradient.

    Returns:
        The loss terms over the images of all processes, `grad_norm`, `lr` and, with fp16, the loss
        `scale`; and whether they are finite, so that the step was taken.
    """
    device = options.device
    inputs = normalize_images(
        images.to(device, non_blocking=True), **vars(state.model.network.normalization)
    )
    targets = [
        {k: v.to(device, non_blocking=True) for k, v in t.items() if isinstance(v, Tensor)}
        for t in targets
    ]
    statistics = [buffer.clone() for buffer in state.model.buffers()]
    state.optimizer.zero_grad(set_to_none=True)
    try:
        terms, grad_norm = _compute_gradients(
            state, inputs, targets, loss_fn, options=options, is_padding=is_padding
        )
    except RuntimeError:  # for example, another process has ended: undo this step
        _restore(state.model, statistics)
        raise
    values = torch.cat([terms, grad_norm[None]]).tolist()
    values = dict(zip((*LOSS_TERMS, "grad_norm"), values, strict=True))
    values["lr"] = state.optimizer.param_groups[0]["lr"]
    checked = [values["loss"], values["grad_norm"]]
    if state.scaler.is_enabled():
        values["scale"] = state.scaler.get_scale()
        if values["scale"] >= 1:
            # GradScaler itself skips a step whose scaled gradient overflowed, and lowers the scale.
            checked.pop()
    is_finite = all(map(math.isfinite, checked))
    if is_finite:
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema:
            state.ema.update(state.model, step=state.step + 1)
    else:  # the forward pass has updated BatchNorm's statistics: restore them
        state.scaler.update()
        _restore(state.model, statistics)
    return values, is_finite


def _compute_gradients(
    state: TrainingState,
    inputs: Tensor,
    targets: list[dict],
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
    is_padding: bool,
) -> tuple[Tensor, Tensor]:
    """Do the forward and the backward pass; return LOSS_TERMS, [3], and the gradient's norm.

    The loss is divided by the number of positive priors in the images of all processes. So together
    they compute the loss and the gradient that one process would compute for the whole batch.
    """
    with autocast(options.precision, options.device):
        cls_logits, bbox_regression = state.network(inputs)
    losses = loss_fn(cls_logits, bbox_regression, targets)
    loss, terms = losses["loss"], torch.stack([losses[name].detach() for name in LOSS_TERMS])
    num_processes = distributed.world_size()
    if num_processes > 1:
        divisor = losses["divisor"].double() * (not is_padding)
        share = divisor / distributed.all_reduce_sum(divisor.clone())
        loss = loss * (share * num_processes)  # the gradients are averaged over the processes
        terms = distributed.all_reduce_sum(terms * share)
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimizer)
    params = [p for group in state.optimizer.param_groups for p in group["params"]]
    grad_norm = get_total_norm([p.grad for p in params if p.grad is not None])
    if options.clip_grad_norm:
        clip_grads_with_norm_(params, options.clip_grad_norm, grad_norm)
    return terms, grad_norm


def _restore(model: torch.nn.Module, statistics: list[Tensor]) -> None:
    """Restore BatchNorm's running statistics to their values before the forward pass."""
    for buffer, before in zip(model.buffers(), statistics, strict=True):
        buffer.copy_(before)
