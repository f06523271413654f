"""The first convolution over four pixels of a row at once, for int8 on CPUs."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vision.ssd.ssd import SSD

PIXELS = 4


class FourPixelConv2d(nn.Module):
    """A 3x3 convolution of stride 2 over few channels, as one of 3x2 over blocks of four pixels.

    onnxruntime's int8 kernels take input channels by fours, and copy the pixels of a window side by
    side first: three channels suit neither. A block of four pixels of a row is a pixel of 12
    channels; a window is three rows of two blocks, the end of the first and all of the second, and
    gives the two results of a row that lie in the second. More than half of the products are with
    zeros, and it takes 0.37 ms instead of 0.67 all the same (`mb2-ssd-lite` at 300 px, one thread
    of an EPYC with VNNI, onnxruntime's profiler). The results are equal.

    Args:
        conv: as `can_be` wants it.
        activation: of its results.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module):
        super().__init__()
        num_out, num_in = conv.weight.shape[:2]
        weight = conv.weight.new_zeros(2, num_out, PIXELS, num_in, 3, 2)
        for result in range(2):
            for column in range(3):
                pixel = 2 * result + column - 1  # of the second block; -1: the first block's last
                block, place = divmod(pixel + PIXELS, PIXELS)
                weight[result, :, place, :, :, block] = conv.weight[..., column]
        self.conv = nn.Conv2d(PIXELS * num_in, 2 * num_out, (3, 2), stride=(2, 1))
        self.conv.weight = nn.Parameter(weight.flatten(2, 3).flatten(0, 1))
        self.conv.bias = nn.Parameter(conv.bias.repeat(2))
        self.activation = activation

    @staticmethod
    def can_be(conv: nn.Conv2d, image_size: tuple[int, int]) -> bool:
        """Tell whether the first convolution of a network for (height, width) is one of these."""
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        return geometry == ((3, 3), (2, 2), (1, 1), (1, 1), 1) and image_size[1] % PIXELS == 0

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, K, ceil(H / 2), W / 2]."""
        height, width = x.shape[-2:]
        blocks = x.permute(0, 2, 3, 1).reshape(-1, height, width // PIXELS, PIXELS * x.shape[1])
        # Zeros above and a block of them to the left; below where a window reaches out.
        padded = nn.functional.pad(blocks.permute(0, 3, 1, 2), (1, 0, 1, height % 2))
        y = self.activation(self.conv(padded)).permute(0, 2, 3, 1)
        return y.reshape(-1, y.shape[1], width // 2, y.shape[3] // 2).permute(0, 3, 1, 2)


@torch.no_grad()
def with_four_pixel_conv(model: SSD, name: str) -> SSD:
    """Return a copy whose first convolution is a FourPixelConv2d, or `model` if it cannot be one.

    Args:
        model: the network, in evaluation mode.
        name: of its first convolution; it can be one in a Sequential with a BatchNorm2d and an
            activation behind it.
    """
    model = copy.deepcopy(model)
    parent, _, place = name.rpartition(".")
    block = model.get_submodule(parent)
    if not isinstance(block, nn.Sequential) or len(block) != 3 or place != "0":
        return model
    conv, norm, activation = block
    if isinstance(norm, nn.BatchNorm2d) and FourPixelConv2d.can_be(conv, model.image_size):
        block[0] = FourPixelConv2d(fuse_conv_bn_eval(conv, norm), activation)
        block[1] = block[2] = nn.Identity()
    return model
