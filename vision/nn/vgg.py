"""VGG16's feature layers as SSD uses them (Simonyan 2015; Liu et al. 2016, section 3)."""

from torch import Tensor, nn

# Output channels of the 3x3 convolutions, stage by stage; each stage ends in a pooling layer.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def build_vgg16_features() -> nn.Sequential:
    """Build the 35 feature layers, to the ReLU behind `conv7`: 1024 channels, stride 16.

    The fifth pooling keeps the size of its map, and VGG16's fully connected layers fc6 and fc7 are
    convolutions with a part of their weights, fc6's spread out by a dilation of 6. The third
    pooling rounds up (`ceil_mode`): 300 px give a map of 38 cells, not 37.
    """
    channels = 3
    layers: list[nn.Module] = []
    for index, stage in enumerate(STAGES):
        for out_channels in stage:
            layers += _conv_relu(channels, out_channels, padding=1)
            channels = out_channels
        if index < 4:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=index == 2))
        else:
            layers.append(nn.MaxPool2d(3, stride=1, padding=1))
    layers += _conv_relu(channels, 1024, padding=6, dilation=6)
    layers += _conv_relu(1024, 1024, kernel=1)
    return nn.Sequential(*layers)


def conv6_from_fc6(weight: Tensor) -> Tensor:
    """Turn fc6's weight [4096, 512 * 7 * 7] into conv6's, [1024, 512, 3, 3].

    Every fourth output, and every third row and column of the 7x7 window, which the dilation
    spreads out again (Liu et al. 2016, section 3).
    """
    return weight.unflatten(1, (-1, 7, 7))[::4, :, ::3, ::3].clone()


def conv7_from_fc7(weight: Tensor) -> Tensor:
    """Turn fc7's weight [4096, 4096] into conv7's, [1024, 1024, 1, 1]."""
    return weight[::4, ::4, None, None].clone()


def _conv_relu(
    in_channels: int, out_channels: int, *, kernel: int = 3, padding: int = 0, dilation: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation),
        nn.ReLU(inplace=True),
    ]
