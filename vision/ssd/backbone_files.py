"""What a backbone's file needs before its tensors fit: layers made of others, another input."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vision.ssd.network import Normalization

# What torchvision's classifiers were trained with, on RGB in 0..255.
IMAGENET_NORMALIZATION = Normalization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def absorb_normalization(
    weights: Mapping[str, Tensor], layer: str, *, trained: Normalization, used: Normalization
) -> dict[str, Tensor]:
    """Change a first convolution so that it takes inputs of another normalisation.

    It then gives what it gave before, except where its padding reaches. A network without
    BatchNorm needs this: nothing else in it would adapt to values 58 times as large.

    Args:
        weights: with `<layer>.weight` [K, 3, H, W] and `<layer>.bias` [K].
        layer: the convolution's name in `weights`.
        trained: the input that the weights were trained on.
        used: the input that they will get.

    Returns:
        The weights, these two tensors new.
    """
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    trained_mean, trained_std = torch.tensor(trained.mean), torch.tensor(trained.std)
    used_mean, used_std = torch.tensor(used.mean), torch.tensor(used.std)
    shift = (used_mean - trained_mean) / trained_std
    return {
        **weights,
        f"{layer}.weight": weight * (used_std / trained_std)[:, None, None],
        f"{layer}.bias": bias + weight.sum(dim=(2, 3)) @ shift,
    }
