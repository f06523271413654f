"""A convolution with weights that stay, and with ReLU6 in the same operation."""

import torch
from torch import Tensor, nn

from vision.nn.cpu.autocast import autocast_dtype
from vision.nn.cpu.operator_probes import are_usable
from vision.nn.cpu.private_operators import convolve, pack_weight


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
        is_for_gradient = x.requires_grad and torch.is_grad_enabled()
        if is_for_gradient or not are_usable(convolve, pack_weight, device=x.device, dtype=x.dtype):
            y = super().forward(x)
            return y.clamp_(0, 6) if self.relu6 else y
        packed = self._packed
        if packed is None or packed[0] != x.shape or packed[1] != x.dtype:
            # One assignment: another thread may be here with another shape.
            self._packed = packed = (x.shape, x.dtype, *self._pack(x))
        return convolve(x, packed[2], packed[3], **self._geometry, relu6=self.relu6)

    def _pack(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = pack_weight(self.weight.to(x.dtype), x.shape, **self._geometry)
        return weight, None if self.bias is None else self.bias.to(x.dtype)
