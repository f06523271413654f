"""Convolution blocks; the family's weight files fix the order of layers in each."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.nn.cpu.autocast import autocast_dtype
from vision.nn.cpu.fused_norm import can_expand, can_fuse, expand_norm_relu6, norm_relu6
from vision.nn.cpu.strided_depthwise import StridedDepthwise


class Conv2d(nn.Conv2d):
    """torch's convolution, kept from two faults of oneDNN 3.12 (torch 2.14) in bfloat16 on CPUs.

    Strided depthwise layers get gradients of their own (`StridedDepthwise`). And the weight
    gradient of a 3x3 convolution of stride 2 on an input one pixel wide is uninitialised memory: a
    second column of zeros is what padding puts there anyway, so the output is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        if self.stride != (2, 2):
            return super().forward(x)
        if x.shape[-1] == 1 and self.padding == (1, 1):
            x = F.pad(x, (0, 1))
        dtype = autocast_dtype(x)
        on_cpu = x.device.type == "cpu"
        if self.groups == 1 or dtype != torch.bfloat16 or not on_cpu or not torch.is_grad_enabled():
            return super().forward(x)
        return StridedDepthwise.apply(x.to(dtype), self.weight.to(dtype))


class ConvSequential(nn.Sequential):
    """Layers one after the other; in training on a CPU, BatchNorm2d and ReLU6 are one operation.

    Where a 1x1 convolution to more channels comes before them, it is part of that operation too.
    Hooks of layers that are joined are not called.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to what the last layer gives."""
        layers = list(self)
        while layers:
            kinds = [type(layer) for layer in layers[:3]]
            if kinds[1:] == [nn.BatchNorm2d, nn.ReLU6] and can_expand(x, *layers[:2]):
                x = expand_norm_relu6(x.to(autocast_dtype(x)), *layers[:2])
                del layers[:3]
            elif kinds[:2] == [nn.BatchNorm2d, nn.ReLU6] and can_fuse(x, layers[0]):
                x = norm_relu6(x, layers[0])
                del layers[:2]
            else:
                x = layers.pop(0)(x)
        return x


def conv_bn_relu(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1):
    """Return Conv2d (no bias, same padding), BatchNorm2d, ReLU6 as a ConvSequential."""
    return ConvSequential(
        Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int) -> ConvSequential:
    """Return a 3x3 depthwise and a 1x1 convolution, both with bias: SSDLite's prediction layer.

    Source: Sandler et al. 2018, MobileNetV2, section 6.2 ("SSDLite").
    """
    return ConvSequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
        nn.BatchNorm2d(in_channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, 3x3 depthwise, project (Sandler et al. 2018, section 3.3).

    Args:
        in_channels, out_channels: channels of the block's narrow ends.
        stride: 1 or 2, of the depthwise convolution.
        expand_ratio: hidden channels over `in_channels`; at 1 the expansion is left out. Below 1
            the block is a bottleneck, as SSDLite's extra layers are.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expand_ratio: float):
        super().__init__()
        hidden = round(in_channels * expand_ratio)
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers += conv_bn_relu(in_channels, hidden, kernel=1)
        layers += [
            Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = ConvSequential(*layers)
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride]."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)
