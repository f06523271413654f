"""Weights on int8's grid, and biases that make up for it."""

import copy

import pytest
import torch
from export_models import opinionated, pixels
from torch import nn

from vision.deploy.export_form import PIXELS, RescaledInput
from vision.deploy.int8_weights import LARGEST, LARGEST_ON_X86, round_weights


def convs_of(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


@torch.no_grad()
@pytest.mark.parametrize("name", ["mb2-ssd-lite", "sq-ssd-lite", "ssdlite320-mb3-large"])
def test_weights_are_whole_numbers_of_a_channel_and_outputs_nearer(name):
    model = opinionated(name)
    before = copy.deepcopy(model.state_dict())
    images = pixels(model, num_images=4)
    rounded = round_weights(model, list(images.numpy()))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    plain = copy.deepcopy(model)  # with the same weights, and biases as they were
    for key, conv in convs_of(rounded).items():
        steps = conv.weight.flatten(1) / conv.weight.flatten(1).abs().amax(1, keepdim=True) * 127
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        plain.get_submodule(key).weight.copy_(conv.weight)
    inputs = images.permute(0, 3, 1, 2).float()
    expected, got, without = (
        RescaledInput(each.eval(), fed_as=PIXELS)(inputs)[0] for each in (model, rounded, plain)
    )
    assert (got - expected).square().mean() < 0.7 * (without - expected).square().mean()


@torch.no_grad()
def test_depthwise_convolutions_keep_all_8_bits():
    model = opinionated()
    rounded = round_weights(model, list(pixels(model).numpy()), largest=LARGEST_ON_X86)
    for key, conv in convs_of(rounded).items():
        largest = LARGEST if conv.groups > 1 else LARGEST_ON_X86
        ends = conv.weight.flatten(1).abs().amax(1, keepdim=True)
        steps = conv.weight.flatten(1) / ends * largest
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0, msg=key)


@torch.no_grad()
def test_the_mean_of_a_layer_by_hand():
    """At 0.4 of 127 steps a weight becomes 0; what its inputs gave then comes from the bias."""
    model = opinionated()
    name = "base_net.0.0"
    conv = convs_of(model)[name]
    conv.weight.zero_()
    conv.weight[:, 0, 1, 1] = 127.0
    conv.weight[:, 1, 1, 1] = 0.4
    images = pixels(model, num_images=2)
    seen = convs_of(round_weights(model, list(images.numpy())))[name]
    assert seen.weight[:, 1].abs().max() == 0
    green = (images[:, ::2, ::2, 1].float() - 127) / 128
    torch.testing.assert_close(seen.bias, torch.full((8,), 0.4 * float(green.mean())))


def test_layers_that_stay_float_stay():
    model = opinionated()
    rounded = round_weights(model, list(pixels(model).numpy()), keep_float=("regression_headers.",))
    for key, conv in convs_of(rounded).items():
        same = torch.equal(conv.weight, model.get_submodule(key).weight)
        assert same == key.startswith("regression_headers."), key
