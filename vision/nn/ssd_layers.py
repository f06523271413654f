"""Extra layers and heads without BatchNorm, of the SSDs on VGG16, MobileNetV1 and SqueezeNet.

An extra layer has half of its output channels between its two convolutions.
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def init_he(module: nn.Module) -> None:
    """Initialise a convolution so that ReLU layers keep the size of their values.

    For `Module.apply`. Where no BatchNorm restores it, Xavier's size, made for layers without
    ReLU and for as many outputs as inputs, shrinks it layer by layer, depthwise layers most.
    Source: He et al. 2015, Delving deep into rectifiers, section 2.2.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ReLUPad(nn.Module):
    """ReLU; then zeros beside and below a map that is smaller than the kernel that comes next."""

    def __init__(self, kernel: int):
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, max(H, kernel), max(W, kernel)]."""
        height, width = x.shape[-2:]
        return F.pad(x.relu(), (0, max(0, self.kernel - width), 0, max(0, self.kernel - height)))


def conv_extra(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return an extra layer that halves the map: 1x1, then 3x3 of stride 2, ReLU behind each."""
    hidden = out_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, out_channels, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
    )


def valid_conv_extra(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return an extra layer whose 3x3 convolution has no padding: 5x5 becomes 3x3, that 1x1.

    A map smaller than 3x3, of an input under 300 px, is padded to 3x3.
    """
    hidden = out_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 1),
        ReLUPad(3),
        nn.Conv2d(hidden, out_channels, 3),
        nn.ReLU(inplace=True),
    )


def separable_extra(in_channels: int, out_channels: int, *, padding: int = 1) -> nn.Sequential:
    """Return an extra layer that halves the map, its 3x3 convolution in two; no ReLU at the end."""
    hidden = out_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 1),
        nn.ReLU(inplace=True),
        separable_relu_conv(hidden, out_channels, stride=2, padding=padding),
    )


def separable_relu_conv(
    in_channels: int, out_channels: int, *, stride: int = 1, padding: int = 1
) -> nn.Sequential:
    """Return a 3x3 depthwise convolution, ReLU, and a 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding, groups=in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def conv_heads(
    channels: Iterable[int], num_priors: Iterable[int], num_values: int
) -> nn.ModuleList:
    """Return a 3x3 convolution for each feature map.

    Args:
        channels: of each map.
        num_priors: in a cell of each map.
        num_values: predicted for each prior.
    """
    return nn.ModuleList(
        nn.Conv2d(in_channels, count * num_values, 3, padding=1)
        for in_channels, count in zip(channels, num_priors, strict=True)
    )
