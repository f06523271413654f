"""The blocks: shapes, and gradients on maps that are one pixel wide."""

import pytest
import torch

from vision.nn.layers import Conv2d, InvertedResidual


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 2), (3, 3), (10, 10)])
@pytest.mark.parametrize("groups", [1, 64])
def test_bfloat16_gradients_of_small_strided_maps(height, width, groups):
    torch.manual_seed(0)
    conv = Conv2d(64, 64, 3, 2, 1, groups=groups, bias=False).to(memory_format=torch.channels_last)
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
def test_the_extra_column_changes_no_output(size):
    torch.manual_seed(0)
    conv = Conv2d(4, 4, 3, 2, 1)
    x = torch.randn(2, 4, *size)
    plain = torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(x), plain)


@pytest.mark.parametrize("expand_ratio", [1, 6, 0.25])
def test_a_residual_block_keeps_its_input_at_hand(expand_ratio):
    block = InvertedResidual(8, 8, stride=1, expand_ratio=expand_ratio).eval()
    torch.nn.init.zeros_(block.conv[-2].weight)
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(block(x), x)
    assert not InvertedResidual(8, 8, stride=2, expand_ratio=6).use_res_connect
