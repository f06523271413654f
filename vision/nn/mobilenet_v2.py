"""MobileNetV2's feature layers (Sandler et al. 2018, table 2)."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from vision.nn.layers import InvertedResidual, conv_bn_relu

# expand_ratio, output channels, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_TORCHVISION_BLOCK = re.compile(r"^(.*\b)?(\d+)\.conv\.(\d+)\.(?:(\d+)\.)?(\w+)$")


def build_mobilenet_v2_features(*, width_mult: float = 1.0) -> nn.Sequential:
    """Build the 19 feature layers; the last has 1280 channels, more when `width_mult` > 1.

    Channels are truncated, not rounded to multiples of 8, as in the family's weight files.
    """
    channels = int(32 * width_mult)
    layers: list[nn.Module] = [conv_bn_relu(3, channels, kernel=3, stride=2)]
    for expand_ratio, stage_channels, num_blocks, first_stride in STAGES:
        out_channels = int(stage_channels * width_mult)
        for block in range(num_blocks):
            stride = first_stride if block == 0 else 1
            layers.append(
                InvertedResidual(channels, out_channels, stride=stride, expand_ratio=expand_ratio)
            )
            channels = out_channels
    last_channels = int(1280 * max(width_mult, 1.0))
    layers.append(conv_bn_relu(channels, last_channels, kernel=1))
    return nn.Sequential(*layers)


def from_torchvision_name(name: str) -> str:
    """Turn torchvision's name of a tensor in these layers into ours, which nests less.

    `features.1.conv.0.0.weight` becomes `features.1.conv.0.weight`.
    """
    match = _TORCHVISION_BLOCK.match(name)
    if match is None:
        return name
    prefix, block, outer, inner, kind = match.groups(default="")
    if inner:  # a convolution, its BatchNorm and ReLU
        return f"{prefix}{block}.conv.{3 * int(outer) + int(inner)}.{kind}"
    projection = 1 if block == "1" else 2  # block 1 has no expansion
    return f"{prefix}{block}.conv.{3 * projection + int(outer) - projection}.{kind}"


def width_of(weights: Mapping[str, Tensor]) -> float:
    """Read the width off a detector's weights: the last stage has 320 channels at width 1."""
    tensor = weights.get("base_net.18.0.weight")
    return 1.0 if tensor is None else tensor.shape[1] / STAGES[-1][1]
