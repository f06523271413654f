"""Convolutions of stride 2 in training: gradients on small maps, and which of them is taken when.

FusedSequential is tested with the operations it calls, in test_fused_batch_norm.py.
"""

import pytest
import torch
from torch import nn

from vision.nn.cpu.optimize import optimize_for_training
from vision.nn.cpu.training_layers import StridedConv2d


def build(channels: int, *, kernel: int = 3, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, 2, kernel // 2, groups=groups, bias=bias)
    optimize_for_training(conv)
    assert type(conv) is StridedConv2d
    return conv.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 2), (3, 3), (10, 10)])
@pytest.mark.parametrize("groups", [1, 64])
@pytest.mark.parametrize("kernel", [3, 5])
def test_bfloat16_gradients_of_small_strided_maps(kernel, groups, height, width):
    conv = build(64, kernel=kernel, groups=groups)
    x = torch.randn(16, 64, height, width).to(memory_format=torch.channels_last)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        conv.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = conv(x)
        (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        gradients.append(conv.weight.grad.clone())
    exact, rounded = gradients
    assert (rounded - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (5, 1)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_extra_column_changes_no_output(kernel, size):
    conv = build(4, kernel=kernel, bias=True)
    x = torch.randn(2, 4, *size)
    plain = nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=kernel // 2)
    torch.testing.assert_close(conv(x), plain)


def gradient_node(conv: nn.Conv2d, *, bfloat16: bool = True) -> str:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        return type(conv(torch.randn(1, 4, 6, 6)).grad_fn).__name__


def test_bfloat16_training_of_depthwise_layers_has_gradients_of_its_own():
    conv = build(4, groups=4)
    assert "StridedDepthwise" in gradient_node(conv)
    assert "StridedDepthwise" not in gradient_node(conv, bfloat16=False)
    for other in (build(4), build(4, groups=2), build(4, groups=4, bias=True)):
        assert "StridedDepthwise" not in gradient_node(other)


def test_evaluation_gives_the_same_without_it():
    conv, x = build(4, groups=4), torch.randn(1, 4, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = conv(x)
        with torch.no_grad():
            evaluated = conv(x)
    assert trained.dtype == evaluated.dtype == torch.bfloat16
    torch.testing.assert_close(trained.detach(), evaluated)
