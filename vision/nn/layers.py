"""Convolution blocks in plain torch; the family's weight files fix the order of layers in each.

`vision.nn.cpu.optimize` makes a network of these faster on CPUs.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn


def conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel: int, stride: int = 1
) -> nn.Sequential:
    """Return Conv2d (no bias, same padding), BatchNorm2d and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 depthwise and a 1x1 convolution, both with bias: SSDLite's prediction layer.

    Source: Sandler et al. 2018, MobileNetV2, section 6.2 ("SSDLite").
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels),
        nn.BatchNorm2d(in_channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def ssdlite_heads(
    channels: Iterable[int],
    num_priors: Iterable[int],
    num_values: int,
    *,
    layer: Callable[[int, int], nn.Module] = separable_conv,
) -> nn.ModuleList:
    """Return SSDLite's prediction layer for each feature map; 1x1 alone for the last, of 1x1.

    Args:
        channels: of each map.
        num_priors: in a cell of each map.
        num_values: predicted for each prior.
        layer: makes a prediction layer, from its input and output channels.
    """
    *separable, last = (
        (in_channels, count * num_values)
        for in_channels, count in zip(channels, num_priors, strict=True)
    )
    return nn.ModuleList([*(layer(*pair) for pair in separable), nn.Conv2d(*last, 1)])


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
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride]."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)
