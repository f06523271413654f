"""The average of the weights, by hand."""

import copy

import pytest
import torch
from torch import nn

from vision.engine.ema import ModelEma
from vision.ssd.models import build_model


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def set_weights(model, value):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def test_the_average_by_hand():
    model = build()
    set_weights(model, 0)
    ema = ModelEma(model, decay=0.25)
    # The decay is (1 + step) / (10 + step), at most 0.25: 2/11, 3/12, 0.25.
    expected, value = 0.0, 0
    for step, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        value += 8
        set_weights(model, value)
        ema.update(model, step=step)
        expected = decay * expected + (1 - decay) * value
        for name, tensor in ema.model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                assert tensor.item() == value and tensor.dtype == torch.int64
            else:
                torch.testing.assert_close(tensor, torch.full_like(tensor, expected))


@pytest.mark.parametrize(
    ("step", "decay"), [(1, 2 / 11), (90, 0.91), (9990, 0.9991), (10**6, 0.9995)]
)
def test_the_decay_grows_to_its_value(step, decay):
    model = build()
    set_weights(model, 0)
    ema = ModelEma(model, decay=0.9995)
    set_weights(model, 1)
    ema.update(model, step=step)
    weight = ema.model[0].weight
    torch.testing.assert_close(weight, torch.full_like(weight, 1 - decay))


def test_the_average_shares_no_memory_and_wants_no_gradient():
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    ema = ModelEma(model, decay=0.9)
    before = copy.deepcopy(ema.model.state_dict())
    set_weights(model, 3)
    assert all(torch.equal(v, before[k]) for k, v in ema.model.state_dict().items())
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not ema.model.training and model.training
    # What evaluation needs besides weights came along.
    torch.testing.assert_close(ema.model.priors_cxcywh, model.priors_cxcywh)


def test_updates_leave_the_model_alone():
    model = build()
    ema = ModelEma(model, decay=0.9)
    set_weights(model, 2)
    ema.update(model, step=1)
    assert all((tensor == 2).all() for tensor in model.state_dict().values())
