"""The layers that `optimize_for_training` puts in the place of torch's.

They have torch's parameters, keys and children, and compute what torch's layers compute, up to
rounding. Whatever they cannot do faster (another device, evaluation, a frozen or synchronized
BatchNorm, a layer with hooks) they leave to torch's layers in each call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.nn.cpu.autocast import autocast_dtype
from vision.nn.cpu.fused_batch_norm import can_expand, can_fuse, expand_norm_relu6, norm_relu6
from vision.nn.cpu.strided_depthwise import StridedDepthwise


class FusedSequential(nn.Sequential):
    """Layers one after the other; in training on a CPU, BatchNorm2d and ReLU6 are one operation.

    Where a 1x1 convolution to more channels comes before them, it is part of that operation too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to what the last layer gives."""
        layers = list(self)
        while layers:
            if _starts_with(layers, nn.Conv2d, nn.BatchNorm2d, nn.ReLU6) and can_expand(
                x, layers[0], layers[1]
            ):
                x = expand_norm_relu6(x, layers[0], layers[1])
                del layers[:3]
            elif _starts_with(layers, nn.BatchNorm2d, nn.ReLU6) and can_fuse(x, layers[0]):
                x = norm_relu6(x, layers[0])
                del layers[:2]
            else:
                x = layers.pop(0)(x)
        return x


class StridedConv2d(nn.Conv2d):
    """A convolution of stride 2, kept from two faults of oneDNN 3.12 (torch 2.14) in bfloat16.

    1. Wrong gradient: on an input one pixel wide, the gradient of the weight is uninitialised
       memory. A second column of zeros is what the padding puts there anyway, so the output is
       the same, and the gradient is right. SSD's last extra layers have such inputs. Only training
       in bfloat16 on a CPU meets the fault, so the remedy is here, and a plain network has none:
       train one there only after `optimize_for_training`.
    2. Slow gradient: depthwise layers get gradients of their own (`StridedDepthwise`).

    `can_be` says for which convolutions it is.
    """

    @staticmethod
    def can_be(layer: nn.Module) -> bool:
        """Tell whether this is torch's own layer, with an odd kernel and the padding to match."""
        return (
            type(layer) is nn.Conv2d
            and layer.kernel_size in ((3, 3), (5, 5), (7, 7))
            and layer.stride == (2, 2)
            and layer.padding == (layer.kernel_size[0] // 2,) * 2
            and layer.dilation == (1, 1)
            and layer.padding_mode == "zeros"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        if x.shape[-1] == 1:
            x = F.pad(x, (0, 1))
        dtype = autocast_dtype(x)
        is_depthwise = 1 < self.groups == self.in_channels == self.out_channels
        is_slow = dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
        if is_depthwise and is_slow and self.bias is None:
            return StridedDepthwise.apply(x.to(dtype), self.weight.to(dtype))
        return super().forward(x)


def has_hooks(layer: nn.Module) -> bool:
    """Tell whether a layer has hooks: they have to run at each call, and may change its weights."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


def _starts_with(layers: list[nn.Module], *types: type[nn.Module]) -> bool:
    first = layers[: len(types)]
    return [type(layer) for layer in first] == list(types) and not any(map(has_hooks, first))
