"""Convolutions folded for inference: the same results for every shape, type and way of calling."""

import pytest
import torch
from torch import nn

from vision.nn.cpu import onednn
from vision.nn.cpu.fold import InferenceConv2d, fold_batch_norm
from vision.nn.layers import InvertedResidual, conv_bn_relu

needs_onednn = pytest.mark.skipif(
    not onednn.is_usable(torch.zeros(1)), reason="packed weights are for x86 CPUs with oneDNN"
)


@pytest.fixture
def layers() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        conv_bn_relu(3, 16, kernel=3, stride=2),
        InvertedResidual(16, 16, stride=1, expand_ratio=6),
        nn.Conv2d(16, 5, 1),
    )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 3)
            nn.init.normal_(module.bias, 1)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 2)
    return layers.eval()


def test_every_layer_becomes_one_operation(layers):
    folded = fold_batch_norm(layers)
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(InferenceConv2d) == 5
    assert nn.BatchNorm2d not in kinds and nn.ReLU6 not in kinds
    assert [conv.relu6 for conv in folded.modules() if type(conv) is InferenceConv2d] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert len(folded[1].conv) == len(layers[1].conv)


def test_only_what_follows_directly_is_folded():
    norm_first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU6())
    nn.init.constant_(norm_first[0].running_mean, 0.5)
    folded = fold_batch_norm(norm_first)
    assert [type(layer) for layer in folded] == [nn.BatchNorm2d, InferenceConv2d, nn.ReLU6]
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), norm_first.eval()(x))


@torch.inference_mode()
def test_shapes_may_change_from_call_to_call(layers):
    folded = fold_batch_norm(layers)
    for shape in [(1, 3, 20, 20), (5, 3, 20, 20), (1, 3, 9, 31), (1, 3, 20, 20), (2, 3, 1, 1)]:
        for memory_format in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(shape).to(memory_format=memory_format)
            torch.testing.assert_close(folded(x), layers(x), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_number_formats(layers):
    x = torch.randn(2, 3, 20, 20)
    exact, folded = layers.double()(x.double()), fold_batch_norm(layers.float())
    torch.testing.assert_close(folded(x).double(), exact, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic = folded(x)
    converted = fold_batch_norm(layers).bfloat16()(x.bfloat16())
    for rounded in (automatic, converted):
        assert rounded.dtype == torch.bfloat16
        assert (rounded.double() - exact).abs().max() < 0.03 * exact.abs().max()
    torch.testing.assert_close(folded(x).double(), exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fold_batch_norm(layers.double())(x.double()), exact)


def test_the_gradient_of_the_input(layers):
    x = torch.randn(2, 3, 20, 20)
    gradients = []
    for model in (layers, fold_batch_norm(layers)):
        inputs = x.clone().requires_grad_()
        model(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


@needs_onednn
@torch.inference_mode()
def test_weights_are_laid_out_once_for_a_shape(layers, monkeypatch):
    packed = []
    original = onednn.pack_weight
    monkeypatch.setattr(
        onednn,
        "pack_weight",
        lambda *args, **options: packed.append(1) or original(*args, **options),
    )
    folded = fold_batch_norm(layers)
    one, two = torch.randn(1, 3, 20, 20), torch.randn(2, 3, 20, 20)
    for x, calls in ((one, 5), (one, 5), (two, 10), (two, 10)):
        folded(x)
        assert len(packed) == calls
