"""MobileNetV1's feature layers (Howard et al. 2017, table 1)."""

from torch import nn

# Output channels and stride of the 13 depthwise separable blocks.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def build_mobilenet_v1_features() -> nn.Sequential:
    """Build the 14 feature layers; the last has 1024 channels and stride 32.

    ReLU, not ReLU6: `mobilenet_v1_with_relu_69_5.pth` was trained so.
    """
    channels = 32
    layers = [nn.Sequential(*_conv_bn_relu(3, channels, stride=2))]
    for out_channels, stride in BLOCKS:
        layers.append(
            nn.Sequential(
                *_conv_bn_relu(channels, channels, stride=stride, groups=channels),
                *_conv_bn_relu(channels, out_channels, kernel=1),
            )
        )
        channels = out_channels
    return nn.Sequential(*layers)


def _conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
