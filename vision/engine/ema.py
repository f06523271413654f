"""Exponential moving average (EMA) of a model's weights."""

import copy

import torch
from torch import nn


class ModelEma:
    """Keeps averaged weights for evaluation (Polyak and Juditsky 1992).

    In the first steps the decay is smaller, (1 + step) / (10 + step), so that the average does not
    stay close to the initial weights.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        """Update the average with the model's weights after step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged, current = self.model.state_dict(), model.state_dict()
        floats = [name for name, tensor in current.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([averaged[n] for n in floats], [current[n] for n in floats], 1 - decay)
        for name in current.keys() - set(floats):
            averaged[name].copy_(current[name])
