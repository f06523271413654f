"""BatchNorm2d and ReLU6 as one operation, for training on CPUs.

A training step of MobileNetV2 on a CPU waits for memory more than for arithmetic, and the widest
maps are read and written most by BatchNorm and ReLU6. Both functions here compute what
Conv2d, BatchNorm2d and ReLU6 compute in training, gradients and running statistics included, up to
rounding; but NaN leaves ReLU6 as 0 or 6, and shows in the gradients.
"""

import torch
from torch import Tensor, nn

from vision.nn.cpu.autocast import autocast_dtype
from vision.nn.cpu.operator_probes import are_usable
from vision.nn.cpu.private_operators import (
    add_convolution_,
    batch_norm_backward,
    batch_norm_statistics,
    convolution_1x1_backward,
    convolve,
    relu6_backward,
)

# Of more input channels than this, the covariance costs more than reading the expanded map.
MAX_COVARIANCE_CHANNELS = 128


def can_fuse(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Tell whether `norm_relu6` can stand in for this BatchNorm and a ReLU6 behind it."""
    operators = convolve, relu6_backward, batch_norm_statistics, batch_norm_backward
    return _is_training(x, norm) and are_usable(*operators, device=x.device, dtype=x.dtype)


def can_expand(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Tell whether `expand_norm_relu6` can stand in for all three, and is the faster way."""
    operators = convolve, relu6_backward, convolution_1x1_backward, add_convolution_
    return (
        conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.bias is None
        and conv.weight.dtype == torch.float32
        and conv.in_channels < conv.out_channels
        and conv.in_channels <= min(MAX_COVARIANCE_CHANNELS, x.numel() // x.shape[1])
        and _is_training(x, norm)
        and are_usable(*operators, device=x.device, dtype=autocast_dtype(x))
    )


def _is_training(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Tell whether this BatchNorm has what the functions below need, and uses the batch of x."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and x.ndim == 4
        and x.numel() > x.shape[1]  # one value a channel has no variance: BatchNorm2d says so
    )


def norm_relu6(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Return relu6(norm(x)) of [B, C, H, W]."""
    with torch.autocast("cpu", enabled=False):
        y, mean, variance = _NormReLU6.apply(x, norm.weight, norm.bias, norm.eps)
    _update_running_statistics(norm, mean, variance, x)
    return y


def expand_norm_relu6(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return relu6(norm(conv(x))) of [B, C, H, W], for a 1x1 convolution to more channels.

    The mean and the variance of `w @ pixel` over all pixels follow from the mean and the
    covariance of the pixels: `w @ mean`, and the diagonal of `w @ covariance @ w.T`. So the
    statistics are known before the convolution, BatchNorm becomes part of its weights and bias,
    ReLU6 part of its last instruction, and the wide map is written once, and never read by
    BatchNorm in either direction.
    """
    x = x.to(autocast_dtype(x))
    with torch.autocast("cpu", enabled=False):
        y, mean, variance = _ExpandNormReLU6.apply(x, conv.weight, norm.weight, norm.bias, norm.eps)
    _update_running_statistics(norm, mean, variance, x)
    return y


@torch.no_grad()
def _update_running_statistics(
    norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, x: Tensor
) -> None:
    """Update them as torch does; mean and variance [C] are those of the batch x [B, C, H, W]."""
    count = x.numel() // x.shape[1]
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    norm.num_batches_tracked += 1


class _NormReLU6(torch.autograd.Function):
    """ReLU6 is applied while BatchNorm's result is written."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        """Return relu6(norm(x)) [B, C, H, W], and the mean and variance of x, [C] each."""
        mean, variance = batch_norm_statistics(x)
        invstd = torch.rsqrt(variance + eps)
        scale = weight * invstd
        # As a depthwise 1x1 convolution.
        y = convolve(
            x,
            scale.to(x.dtype)[:, None, None, None],
            bias - mean * scale,
            groups=len(scale),
            relu6=True,
        )
        ctx.save_for_backward(x, y, weight, mean, invstd)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx, grad_y: Tensor, *_):
        """Return the gradients of x, weight and bias."""
        x, y, weight, mean, invstd = ctx.saved_tensors
        grad = relu6_backward(grad_y, y)
        return *batch_norm_backward(grad, x, weight, mean, invstd, ctx.eps), None


class _ExpandNormReLU6(torch.autograd.Function):
    """With w the convolution's weights and s = weight / std: y = relu6((s w) x + bias - s mean)."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor, eps: float):
        """Return y [B, K, H, W], and the mean and variance before the norm, [K] each."""
        w = kernel.flatten(1)  # [K, C]
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # [B, H * W, C]
        pixel_mean = pixels.mean(dim=1).mean(dim=0)
        centred = pixels - pixel_mean
        covariance = torch.bmm(centred.mT, centred).sum(dim=0) / (x.numel() // x.shape[1])
        mean = w @ pixel_mean
        w_covariance = w @ covariance
        variance = (w_covariance * w).sum(dim=1)
        invstd = torch.rsqrt(variance + eps)
        scale = weight * invstd
        scaled = (w * scale[:, None]).to(x.dtype)[:, :, None, None]
        y = convolve(x, scaled, bias - mean * scale, relu6=True)
        ctx.save_for_backward(x, y, kernel, scaled, weight, pixel_mean, mean, w_covariance, invstd)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx, grad_y: Tensor, *_):
        """Return the gradients of x, kernel, weight and bias."""
        x, y, kernel, scaled, weight, pixel_mean, mean, w_covariance, invstd = ctx.saved_tensors
        w, count = kernel.flatten(1), x.numel() // x.shape[1]
        grad = relu6_backward(grad_y, y)
        grad_x, grad_scaled, grad_bias = convolution_1x1_backward(grad, x, scaled)
        grad_scaled, grad_bias = grad_scaled.flatten(1).float(), grad_bias.float()
        # y's way back to the statistics: through scale and mean to variance, then to the pixels.
        grad_scale = (grad_scaled * w).sum(dim=1) - grad_bias * mean
        grad_mean = -grad_bias * weight * invstd
        grad_variance = -0.5 * grad_scale * weight * invstd.pow(3)
        grad_w = grad_scaled * (weight * invstd)[:, None]
        grad_w += 2 * grad_variance[:, None] * w_covariance
        grad_w += torch.outer(grad_mean, pixel_mean)
        # d variance / d pixel = 2 w (w . centred) / count: for all channels together, a matrix.
        matrix = w.mT @ (w * (2 / count * grad_variance)[:, None])  # [C, C]
        offset = w.mT @ grad_mean / count - matrix @ pixel_mean
        add_convolution_(grad_x, x, matrix[:, :, None, None], offset)
        return grad_x, grad_w.view_as(kernel), grad_scale * invstd, grad_bias, None
