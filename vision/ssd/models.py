"""The networks by name."""

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from vision.nn.layers import ConvSequential, InvertedResidual, conv_bn_relu, separable_conv
from vision.nn.mobilenet_v2 import build_mobilenet_v2_features
from vision.ssd.config import (
    DEFAULT_IMAGE_SIZE,
    MB2_SSD_LITE_PRIORS,
    MB2_SSD_PRIORS,
    NUM_PRIORS_PER_LOCATION,
    PriorConfig,
)
from vision.ssd.ssd import SSD, SourceLayer

# The expansion of block 14 (stride 16) and the last feature layer (stride 32).
SOURCE_LAYERS = (SourceLayer(14, split=3), SourceLayer(18))
# Smaller inputs leave the last extra layers nothing to look at.
MIN_IMAGE_SIZE = 96


def build_mb2_ssd_lite(
    *, num_classes: int, image_size: tuple[int, int], width_mult: float, priors: PriorConfig | None
) -> SSD:
    """SSDLite on MobileNetV2 (Sandler et al. 2018, section 6.2), laid out as in the family."""
    base_net = build_mobilenet_v2_features(width_mult=width_mult)
    channels = [*_source_channels(base_net), 512, 256, 256, 64]
    extras = nn.ModuleList(
        InvertedResidual(in_channels, out_channels, stride=2, expand_ratio=ratio)
        for in_channels, out_channels, ratio in zip(
            channels[1:-1], channels[2:], (0.2, 0.25, 0.5, 0.25), strict=True
        )
    )

    def heads(num_values: int) -> nn.ModuleList:
        out_channels = NUM_PRIORS_PER_LOCATION * num_values
        *separable, last = channels
        heads = [separable_conv(in_channels, out_channels) for in_channels in separable]
        return nn.ModuleList([*heads, nn.Conv2d(last, out_channels, 1)])

    return SSD(
        base_net,
        extras.apply(_init_xavier),
        heads(num_classes).apply(_init_xavier),
        heads(4).apply(_init_xavier),
        source_layers=SOURCE_LAYERS,
        num_classes=num_classes,
        image_size=image_size,
        prior_config=priors or MB2_SSD_LITE_PRIORS,
    )


def build_mb2_ssd(
    *, num_classes: int, image_size: tuple[int, int], width_mult: float, priors: PriorConfig | None
) -> SSD:
    """SSD with full convolutions on MobileNetV2, priors as torchvision's DefaultBoxGenerator."""
    base_net = build_mobilenet_v2_features(width_mult=width_mult)
    channels = [*_source_channels(base_net), 512, 256, 256, 128]
    extras = nn.ModuleList(
        ConvSequential(
            *conv_bn_relu(in_channels, out_channels // 2, kernel=1),
            *conv_bn_relu(out_channels // 2, out_channels, kernel=3, stride=2),
        )
        for in_channels, out_channels in pairwise(channels[1:])
    )

    def heads(num_values: int) -> nn.ModuleList:
        out_channels = NUM_PRIORS_PER_LOCATION * num_values
        return nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=1) for in_channels in channels
        )

    return SSD(
        base_net,
        extras.apply(_init_xavier),
        heads(num_classes).apply(_init_xavier),
        heads(4).apply(_init_xavier),
        source_layers=SOURCE_LAYERS,
        num_classes=num_classes,
        image_size=image_size,
        prior_config=priors or MB2_SSD_PRIORS,
    )


MODELS: dict[str, Callable[..., SSD]] = {
    "mb2-ssd-lite": build_mb2_ssd_lite,
    "mb2-ssd": build_mb2_ssd,
}


def build_model(
    name: str,
    *,
    num_classes: int,
    image_size: tuple[int, int] | None = None,
    width_mult: float = 1.0,
    prior_sizes: tuple[float, ...] | None = None,
) -> SSD:
    """Build a network of MODELS with random weights.

    Args:
        name: a key of MODELS.
        num_classes: counts the background.
        image_size: input (height, width); the network's own default when None.
        width_mult: channels of the backbone over MobileNetV2's.
        prior_sizes: seven growing shares of the image's shorter side; the network's own when None.

    Raises:
        ValueError: unknown name, an image too small for six maps, or bad prior sizes.
    """
    if name not in MODELS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(MODELS)}")
    image_size = image_size or DEFAULT_IMAGE_SIZE[name]
    if min(image_size) < MIN_IMAGE_SIZE:
        raise ValueError(f"image size {image_size}: each side must be {MIN_IMAGE_SIZE} px or more")
    priors = None
    if prior_sizes:
        default = {"mb2-ssd-lite": MB2_SSD_LITE_PRIORS, "mb2-ssd": MB2_SSD_PRIORS}[name]
        priors = PriorConfig(sizes=tuple(prior_sizes), strides=default.strides)
    return MODELS[name](
        num_classes=num_classes, image_size=image_size, width_mult=width_mult, priors=priors
    )


def _source_channels(base_net: nn.Sequential) -> list[int]:
    """Read the channels of the two backbone maps off the layers, right for any width."""
    return [base_net[14].conv[0].out_channels, base_net[18][0].out_channels]


def _init_xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
