"""Normalising uint8 image batches for the network, on the device of the batch."""

import torch

PIXEL_MEAN = 127.0
PIXEL_STD = 128.0


def normalize_images(
    images: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """Map 0..255 to (x - 127) / 128, which float32 and bfloat16 represent without rounding.

    Args:
        images: uint8 [B, 3, H, W] RGB, in any memory layout.
        dtype: that of the result.
        memory_format: layout of the result; convolutions on a CPU are fastest in channels_last.

    Returns:
        A new tensor [B, 3, H, W] on the same device.
    """
    batch = images.to(dtype=dtype, memory_format=memory_format, copy=True)
    return batch.sub_(PIXEL_MEAN).mul_(1.0 / PIXEL_STD)
