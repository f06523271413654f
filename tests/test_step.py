"""One optimizer step: the norm that is reported, and the one that is applied."""

import pytest
import torch
from torch import nn

from vision.engine.optim import Schedule, build_optimizer
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model


def gradient_norm(model: nn.Module) -> float:
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double().norm().item()


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_the_gradient_is_cut_to_the_limit(limit):
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    optimizer = build_optimizer("sgd", model, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, Schedule("none", total_steps=9), scaler)
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
    }
    values, is_taken = train_step(
        state,
        torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8),
        [target, target],
        MultiBoxLoss(model.priors_cxcywh, image_size=(96, 96)),
        options=StepOptions(torch.device("cpu"), "fp32", clip_grad_norm=limit),
    )
    assert is_taken and 0.5 < values["grad_norm"] < 1e6
    applied = 0.5 if limit == 0.5 else values["grad_norm"]
    assert gradient_norm(model) == pytest.approx(applied, rel=1e-4)
