"""BatchNorm and ReLU6 folded into the convolutions before them, for inference."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vision.nn.cpu import onednn
from vision.nn.cpu.autocast import autocast_dtype


class InferenceConv2d(nn.Conv2d):
    """A convolution with ReLU6 or without, whose weights do not change any more.

    On x86 CPUs they are kept the way oneDNN wants them for the shape of the last input. torch would
    lay them out anew in each call, which is a fifth of the time of one image.
    """

    def __init__(self, conv: nn.Conv2d, *, relu6: bool):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.load_state_dict(conv.state_dict(), assign=True)
        self.requires_grad_(False)
        self.relu6 = relu6
        self._geometry = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
        }
        self._packed: tuple[torch.Size, torch.dtype, Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, K, H', W']."""
        x = x.to(autocast_dtype(x))
        if not onednn.is_usable(x) or (x.requires_grad and torch.is_grad_enabled()):
            y = super().forward(x)
            return y.clamp_(0, 6) if self.relu6 else y
        packed = self._packed
        if packed is None or packed[0] != x.shape or packed[1] != x.dtype:
            # One assignment: another thread may be here with another shape.
            self._packed = packed = (x.shape, x.dtype, *self._pack(x))
        return onednn.convolve(x, packed[2], packed[3], **self._geometry, relu6=self.relu6)

    def _pack(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = onednn.pack_weight(self.weight.to(x.dtype), x.shape, **self._geometry)
        return weight, None if self.bias is None else self.bias.to(x.dtype)


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy for inference that computes the same with fewer operations.

    Every BatchNorm2d that follows a Conv2d in a Sequential becomes part of its weights, and a ReLU6
    behind it part of its operation. An Identity keeps the place of each, so indices into the
    Sequential stay right. The copy's weights are not to be changed.
    """
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        if isinstance(parent, nn.Sequential):
            _fold_sequence(parent)
            continue
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(parent, name, InferenceConv2d(child, relu6=False))
    return model


def _fold_sequence(block: nn.Sequential) -> None:
    for i, layer in enumerate(block):
        if not isinstance(layer, nn.Conv2d):
            continue
        relu6 = False
        if i + 1 < len(block) and isinstance(block[i + 1], nn.BatchNorm2d):
            layer = fuse_conv_bn_eval(layer, block[i + 1])
            block[i + 1] = nn.Identity()
            relu6 = i + 2 < len(block) and isinstance(block[i + 2], nn.ReLU6)
            if relu6:
                block[i + 2] = nn.Identity()
        block[i] = InferenceConv2d(layer, relu6=relu6)
