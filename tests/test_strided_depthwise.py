"""The strided depthwise convolution's gradients, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

from vision.nn.cpu.strided_depthwise import StridedDepthwise
from vision.nn.layers import Conv2d


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (3, 4), (10, 7), (19, 19)])
def test_gradients_equal_torchs(size):
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    reference = F.conv2d(x, weight, stride=2, padding=1, groups=5)
    ours = StridedDepthwise.apply(x, weight)
    torch.testing.assert_close(ours, reference)
    upstream = torch.randn_like(reference)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(reference, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_a_frozen_side_gets_no_gradient(frozen):
    x = torch.randn(1, 3, 4, 4, requires_grad=frozen != "input")
    weight = torch.randn(3, 1, 3, 3, requires_grad=frozen != "weight")
    StridedDepthwise.apply(x, weight).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert (weight.grad is None) == (frozen == "weight")


def test_bfloat16_training_goes_through_it_and_evaluation_does_not():
    conv = Conv2d(4, 4, 3, 2, 1, groups=4, bias=False)
    x = torch.randn(1, 4, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = conv(x)
        with torch.no_grad():
            evaluated = conv(x)
    assert "StridedDepthwise" in type(trained.grad_fn).__name__
    assert trained.dtype == evaluated.dtype == torch.bfloat16
    torch.testing.assert_close(trained.detach(), evaluated)
    assert "StridedDepthwise" not in type(conv(x).grad_fn).__name__
