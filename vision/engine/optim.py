"""Optimizers, parameter groups, frozen layers and the learning-rate schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vision.ssd.ssd import SSD

OPTIMIZERS = ("sgd", "adam", "adamw")
DEFAULT_STEPS = 900  # of a run that is not told its epochs; docs/recipes.md has what led to it
SCHEDULERS = ("cosine", "multi-step", "none")


def freeze(model: SSD, *, all_but_heads: bool) -> None:
    """Freeze the backbone, or everything but the prediction heads: no gradients for them."""
    parts = model.network.parts
    frozen = parts.backbone + (parts.extra_layers if all_but_heads else ())
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)


def set_train_mode(model: SSD) -> None:
    """Put the model in training mode, but a frozen BatchNorm in evaluation mode.

    Otherwise its running statistics would change, and the output of the frozen layers with them.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def build_optimizer(
    name: str,
    model: SSD,
    *,
    lr: float,
    base_net_lr: float | None = None,
    extra_layers_lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Build one of OPTIMIZERS for the parameters that are trained, in up to three groups.

    Args:
        name: of the optimizer.
        model: its backbone, its extra layers and its heads are a group each.
        lr: rate of the groups that have none of their own; 0 is a rate.
        base_net_lr: of the backbone.
        extra_layers_lr: of the extra layers.
        momentum: of SGD.
        weight_decay: of all.

    Returns:
        The optimizer; each of its groups keeps its `base_lr`, which the schedule scales.
    """
    parts = model.network.parts
    groups = []
    for group, prefixes, group_lr in (
        ("base_net", parts.backbone, base_net_lr),
        ("extra_layers", parts.extra_layers, extra_layers_lr),
        ("heads", parts.heads, None),
    ):
        params = [
            parameter
            for prefix in prefixes
            for key, parameter in model.named_parameters()
            if key.startswith(prefix) and parameter.requires_grad
        ]
        rate = lr if group_lr is None else group_lr
        if params:
            groups.append({"params": params, "name": group, "lr": rate, "base_lr": rate})
    if name == "sgd":
        return SGD(groups, momentum=momentum, weight_decay=weight_decay, fused=True)
    return {"adam": Adam, "adamw": AdamW}[name](groups, weight_decay=weight_decay, fused=True)


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule: a function of the step alone, so a run can resume at any step.

    Attributes:
        kind: one of SCHEDULERS.
        total_steps: step at which the cosine reaches 0.
        warmup_steps: steps over which the rate first grows linearly (Goyal et al. 2017, 2.2).
        milestones: steps at which multi-step multiplies the rate by `gamma`.
    """

    kind: str
    total_steps: int
    warmup_steps: int = 0
    milestones: Sequence[int] = ()
    gamma: float = 0.1

    def factor(self, step: int) -> float:
        """Return the factor on the base rates in step `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "cosine":
            decay_steps = max(1, self.total_steps - self.warmup_steps)
            progress = min(1.0, (step - self.warmup_steps) / decay_steps)
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "multi-step":
            return self.gamma ** sum(step >= milestone for milestone in self.milestones)
        return 1.0

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set the learning rates of the optimizer's groups for step `step`."""
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.factor(step)

    def state_dict(self) -> dict:
        """Return the schedule's settings, for a checkpoint."""
        return {
            "kind": self.kind,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "milestones": list(self.milestones),
            "gamma": self.gamma,
        }
