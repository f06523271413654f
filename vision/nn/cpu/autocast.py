"""The dtype that torch.autocast gives a convolution."""

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return what torch.autocast would convert x to before a convolution; its own type if off."""
    is_on = x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type)
    return torch.get_autocast_dtype(x.device.type) if is_on else x.dtype
