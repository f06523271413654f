"""The strided depthwise convolution's gradients, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

from vision.nn.cpu.strided_depthwise import StridedDepthwise


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (3, 4), (10, 7), (19, 19)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_gradients_equal_torchs(kernel, size):
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    reference = F.conv2d(x, weight, stride=2, padding=kernel // 2, groups=5)
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
