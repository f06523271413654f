"""Weights as int8 will have them, and biases that take out what the rounding changes on average."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision.deploy.export_form import PIXELS, RescaledInput
from vision.engine.metrics import show_progress
from vision.ssd.ssd import SSD

LARGEST = 127  # of a weight in int8, symmetric around 0
# On x86 without VNNI, onnxruntime and OpenVINO add two products of a weight and an activation in 16
# bits, and what is larger is cut: with weights to 127, half of a sum was lost. 2 x 64 x 255 is not.
# Depthwise convolutions, whose channels are not added, multiply numbers of 16 bits and add in 32
# (onnxruntime's qdwconv_avx2.cpp, compute_ker_dw of oneDNN's jit_avx2_x8s8s32x_conv_kernel.cpp);
# their weights go to 127.
LARGEST_ON_X86 = 64


@torch.no_grad()
def round_weights(
    model: SSD,
    images: Sequence[np.ndarray],
    *,
    largest: int = LARGEST,
    keep_float: tuple[str, ...] = (),
) -> SSD:
    """Return a copy whose convolutions have weights that int8 holds exactly, by output channel.

    A depthwise convolution sums nine weights: their rounding errors do not cancel, and move all
    values of a channel the same way. The mean of that over images is taken out of the bias
    (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
    section 4.2, with images in place of BatchNorm's statistics). A quantizer that scales each
    channel by its largest weight, as all here do, then finds these very weights; BatchNorm scales
    whole channels, and changes nothing of that.

    Args:
        model: the network, on the CPU.
        images: uint8 [H, W, 3] of the input's size, like those that will come.
        largest: of the whole numbers that stand for a channel's weights, those of depthwise
            convolutions aside, which go to LARGEST.
        keep_float: beginnings of the names of layers that stay as they are.
    """
    model = copy.deepcopy(model).eval()
    convs = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith(keep_float)
    }
    errors = {
        name: _on_grid(conv.weight, LARGEST if conv.groups > 1 else largest) - conv.weight
        for name, conv in convs.items()
    }
    changes = {name: torch.zeros(conv.out_channels) for name, conv in convs.items()}

    def add_change(name: str, conv: nn.Conv2d, x: Tensor) -> None:
        """Add what rounding changes in the mean of each output channel, for the input x."""
        change = F.conv2d(
            x, errors[name], None, conv.stride, conv.padding, conv.dilation, conv.groups
        )
        changes[name] += change.mean(dim=(0, 2, 3)) / len(images)

    handles = [
        conv.register_forward_hook(lambda conv, x, _, name=name: add_change(name, conv, *x))
        for name, conv in convs.items()
    ]
    rescaled = RescaledInput(model, fed_as=PIXELS)
    for image in show_progress(images, "int8 weights"):
        rescaled(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    for handle in handles:
        handle.remove()
    for name, conv in convs.items():
        conv.weight += errors[name]
        own = 0 if conv.bias is None else conv.bias
        conv.bias = nn.Parameter(own - changes[name])
    return model


@torch.no_grad()
def conv_names(model: SSD) -> list[str]:
    """Return the names of the convolutions, in the order in which the network runs them."""
    names: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    model.eval()(torch.zeros(1, 3, *model.image_size))
    for handle in handles:
        handle.remove()
    return names


def _on_grid(weight: Tensor, largest: int) -> Tensor:
    """Round weights [O, I, H, W]: the largest of a channel becomes `largest` steps."""
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / largest
    scale[scale == 0] = 1
    return (weight / scale).round() * scale
