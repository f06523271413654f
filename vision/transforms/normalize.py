"""From uint8 batches to what the network expects, on the device of the batch."""

import torch

PIXEL_MEAN = 127.0
PIXEL_STD = 128.0


def normalize_images(
    images: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """Map 0..255 to (x - 127) / 128, which float32 and bfloat16 both hold without rounding.

    Args:
        images: uint8 [B, 3, H, W] RGB, in any memory layout.
        dtype: of the result.
        memory_format: layout of the result; channels_last is what the CPU convolves fastest.

    Returns:
        A new tensor [B, 3, H, W] on the same device.
    """
    batch = images.to(dtype=dtype, memory_format=memory_format, copy=True)
    return batch.sub_(PIXEL_MEAN).mul_(1.0 / PIXEL_STD)
