"""MobileNetV3's feature layers, large and small, as the family has them.

Against Howard et al. 2019 (tables 1 and 2): squeeze and excite comes after the projection, with
BatchNorm; a block of stride 1 that changes the number of channels has a convolution on its
shortcut; and of LARGE's last three blocks, the second has stride 2 and expands to 672.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor, nn


class BlockSpec(NamedTuple):
    """One row of the paper's tables."""

    kernel: int
    expanded: int
    out_channels: int
    has_se: bool
    hard_swish: bool
    stride: int


LARGE = (
    BlockSpec(3, 16, 16, False, False, 1),
    BlockSpec(3, 64, 24, False, False, 2),
    BlockSpec(3, 72, 24, False, False, 1),
    BlockSpec(5, 72, 40, True, False, 2),
    BlockSpec(5, 120, 40, True, False, 1),
    BlockSpec(5, 120, 40, True, False, 1),
    BlockSpec(3, 240, 80, False, True, 2),
    BlockSpec(3, 200, 80, False, True, 1),
    BlockSpec(3, 184, 80, False, True, 1),
    BlockSpec(3, 184, 80, False, True, 1),
    BlockSpec(3, 480, 112, True, True, 1),
    BlockSpec(3, 672, 112, True, True, 1),
    BlockSpec(5, 672, 160, True, True, 1),
    BlockSpec(5, 672, 160, True, True, 2),
    BlockSpec(5, 960, 160, True, True, 1),
)
SMALL = (
    BlockSpec(3, 16, 16, True, False, 2),
    BlockSpec(3, 72, 24, False, False, 2),
    BlockSpec(3, 88, 24, False, False, 1),
    BlockSpec(5, 96, 40, True, True, 2),
    BlockSpec(5, 240, 40, True, True, 1),
    BlockSpec(5, 240, 40, True, True, 1),
    BlockSpec(5, 120, 48, True, True, 1),
    BlockSpec(5, 144, 48, True, True, 1),
    BlockSpec(5, 288, 96, True, True, 2),
    BlockSpec(5, 576, 96, True, True, 1),
    BlockSpec(5, 576, 96, True, True, 1),
)
# torchvision's names: features.4.block.1.0.weight, features.0.1.bias.
_TORCHVISION_LAYER = re.compile(r"^features\.(\d+)\.(?:block\.(\d+)\.)?([01])\.(\w+)$")


class SqueezeExcite(nn.Module):
    """Scale each channel by what the means of all channels say (Hu et al. 2018, section 3)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = channels // 4
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1, bias=False),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale [B, channels, H, W]."""
        return x * self.se(x)


class Block(nn.Module):
    """Expand, depthwise convolution, project, squeeze and excite; then the shortcut.

    Args:
        in_channels: of the input.
        spec: what the block is made of.
    """

    def __init__(self, in_channels: int, spec: BlockSpec):
        super().__init__()
        kernel, expanded, out_channels, has_se, hard_swish, stride = spec
        self.stride, self.out_channels = stride, out_channels
        self.se = SqueezeExcite(out_channels) if has_se else None
        self.conv1 = nn.Conv2d(in_channels, expanded, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(expanded)
        self.act1 = _activation(hard_swish)
        self.conv2 = nn.Conv2d(
            expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False
        )
        self.bn2 = nn.BatchNorm2d(expanded)
        self.act2 = _activation(hard_swish)
        self.conv3 = nn.Conv2d(expanded, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride == 1 and in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H / stride, W / stride]."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        return y + self.shortcut(x) if self.stride == 1 else y


def _activation(hard_swish: bool) -> nn.Module:
    return nn.Hardswish(inplace=True) if hard_swish else nn.ReLU(inplace=True)


def build_mobilenet_v3_features(blocks: tuple[BlockSpec, ...]) -> nn.Sequential:
    """Build the feature layers of LARGE or SMALL: three of the stem, the blocks, three at the end.

    The last has six times the channels of the last block, and stride 32.
    """
    channels = 16
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.Hardswish(inplace=True),
    ]
    for spec in blocks:
        layers.append(Block(channels, spec))
        channels = spec.out_channels
    layers += [
        nn.Conv2d(channels, 6 * channels, 1, bias=False),
        nn.BatchNorm2d(6 * channels),
        nn.Hardswish(inplace=True),
    ]
    return nn.Sequential(*layers)


def from_torchvision_names(names: Collection[str]) -> dict[str, str]:
    """Name torchvision's tensors of a MobileNetV3 as ours: {name in the file: name here}.

    Squeeze and excite is left out: it stands in another place there. Of LARGE's 14th block the
    channels differ, so those tensors do not fit either.
    """
    layers = [match for name in names if (match := _TORCHVISION_LAYER.match(name))]
    last = max((int(match[1]) for match in layers), default=0)
    # The convolutions of a block; the first blocks have no expansion, so count from the end.
    convolutions: dict[str, set[int]] = {}
    for block, convolution, *_ in (match.groups() for match in layers):
        if convolution is not None:
            convolutions.setdefault(block, set()).add(int(convolution))
    found = {}
    for match in layers:
        block, convolution, is_norm, kind = match.groups()
        if convolution is None:
            index = int(is_norm) + (0 if block == "0" else last + 2)
            found[match[0]] = f"{index}.{kind}"
        else:
            after = sum(other > int(convolution) for other in convolutions[block])
            layer = "bn" if is_norm == "1" else "conv"
            found[match[0]] = f"{int(block) + 2}.{layer}{3 - after}.{kind}"
    return found


def from_bneck_names(names: Collection[str]) -> dict[str, str]:
    """Name the tensors of the family's own MobileNetV3 classifiers as ours.

    They have `conv1`, `bn1`, then `bneck.<block>.`, then `conv2` and `bn2`, and a classifier.
    """
    blocks = {int(name.split(".")[1]) for name in names if name.startswith("bneck.")}
    end = len(blocks) + 3
    indices = {"conv1": 0, "bn1": 1, "conv2": end, "bn2": end + 1}
    found = {}
    for name in names:
        layer, _, rest = name.partition(".")
        if layer == "bneck":
            block, _, rest = rest.partition(".")
            found[name] = f"{int(block) + 3}.{rest}"
        elif layer in indices:
            found[name] = f"{indices[layer]}.{rest}"
    return found
