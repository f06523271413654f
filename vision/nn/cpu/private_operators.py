"""torch's private operators: one function for each.

torch promises nothing about them: another version may lack one, take other arguments or compute
something else. So call them only where `operator_probes.are_usable` says yes.
"""

import torch
from torch import Tensor


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    relu6: bool,
) -> Tensor:
    """Convolve [B, C, H, W], and clamp to 0..6 with `relu6`, without another pass over memory.

    Args:
        x: float32 or bfloat16.
        weight: as torch.nn.functional.conv2d takes it, or from `pack_weight`.
        bias: float32 also where x is bfloat16, and then not rounded.
        stride, padding, dilation, groups: as in conv2d.
        relu6: whether to clamp.
    """
    activation, limits = ("hardtanh", [0.0, 6.0]) if relu6 else ("none", [])
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, activation, limits, ""
    )


def add_convolution_(total: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Add the 1x1 convolution of x to `total` in place, while it is computed."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        total, x, weight, bias, [0, 0], [1, 1], [1, 1], 1, "add", 1.0, None, [], None
    )


def pack_weight(
    weight: Tensor,
    input_shape: torch.Size,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Lay out a weight as oneDNN wants it for inputs of one shape.

    An input of another shape, of another batch size even, gives the right result too, but some are
    20 times slower.
    """
    return torch._C._nn.mkldnn_reorder_conv2d_weight(
        weight.to_mkldnn(), padding, stride, dilation, groups, input_shape
    )


def convolution_1x1_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight [K, C, 1, 1] and the bias, in one pass over grad_y."""
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3
    )


def relu6_backward(grad_y: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of ReLU6's input, from its output y."""
    return torch.ops.aten.hardtanh_backward(grad_y, y, 0.0, 6.0)


def batch_norm_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance (over N, not N - 1) of [B, C, H, W], float32 [C] each."""
    # The operator wants running statistics; with momentum 0 it leaves them as they are.
    running_mean = x.new_zeros(x.shape[1], dtype=torch.float32)
    running_variance = torch.ones_like(running_mean)
    return torch.ops.aten.batch_norm_update_stats(x, running_mean, running_variance, 0.0)


def batch_norm_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias of BatchNorm in training."""
    return torch.ops.aten.native_batch_norm_backward(
        grad_y, x, weight, None, None, mean, invstd, True, eps, [True, True, True]
    )
