"""Normalising uint8 image batches for the network, on the device of the batch."""

from collections.abc import Sequence

import torch


def normalize_images(
    images: torch.Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """Map 0..255 to (x - mean) / std.

    With mean 127 and std 128, float32 and bfloat16 both hold the result without rounding.

    Args:
        images: uint8 [B, 3, H, W] RGB, in any memory layout.
        mean: of R, G and B, in 0..255.
        std: of R, G and B.
        dtype: of the result.
        memory_format: layout of the result; channels_last is what the CPU convolves fastest.

    Returns:
        A new tensor [B, 3, H, W] on the same device.
    """
    if len(set(mean)) == len(set(std)) == 1:
        batch = images.to(dtype=dtype, memory_format=memory_format, copy=True)
        return batch.sub_(mean[0]).mul_(1.0 / std[0])
    # In float32, as bfloat16 would round the means themselves.
    batch = images.to(dtype=torch.float32, memory_format=memory_format, copy=True)
    mean_by_channel = batch.new_tensor(mean)[:, None, None]
    factor = batch.new_tensor([1.0 / x for x in std])[:, None, None]
    return batch.sub_(mean_by_channel).mul_(factor).to(dtype)
