"""oneDNN's convolution with ReLU6 in the same pass, which torch keeps for its own compiler."""

import functools
import platform

import torch
from torch import Tensor


def is_usable(x: Tensor) -> bool:
    """Tell whether the functions below take this tensor; they were measured on x86 only."""
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and x.device.type == "cpu"
        and torch.backends.mkldnn.enabled
        and _is_built()
    )


@functools.cache
def _is_built() -> bool:
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


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
