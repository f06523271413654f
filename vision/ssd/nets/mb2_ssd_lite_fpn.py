"""mb2-ssd-lite-fpn: mb2-ssd-lite with a map at stride 8 and a light top-down path.

The heads of the three largest maps see 128 channels, in which what a coarse map knows is added to
the finer one (feature pyramid, Lin et al. 2017, section 3), instead of 576 and 1280 channels of
their own. That pays for most of the map at stride 8, which finds small objects.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.functional import interpolate

from vision.nn.layers import InvertedResidual, ssdlite_heads
from vision.nn.mobilenet_v2 import build_mobilenet_v2_features
from vision.ops.priors import growing_sizes
from vision.ssd.family import FamilySSD, SourceLayer, init_xavier
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.network import Network

# The expansions of blocks 7 (stride 8) and 14 (stride 16) and the last feature layer (stride 32).
SOURCE_LAYERS = (
    SourceLayer(7, split=3, add_on=0),
    SourceLayer(14, split=3, add_on=1),
    SourceLayer(18, add_on=2),
)
PATH_CHANNELS = 128


class PyramidSSD(FamilySSD):
    """An SSD whose maps of the backbone get what the next coarser one of them knows.

    Its `source_layer_add_ons` bring these maps to the same number of channels.
    """

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps [B, C_k, H_k, W_k] that the heads look at, largest first."""
        maps = super().feature_maps(images)
        for k in reversed(range(len(self.source_layers) - 1)):
            size = [int(side) for side in maps[k].shape[-2:]]  # constants in an exported file
            maps[k] = maps[k] + interpolate(maps[k + 1], size=size, mode="nearest")
        return maps


def build(network: Network, num_classes: int) -> PyramidSSD:
    """Build it with random weights; `num_classes` counts the background."""
    base_net = build_mobilenet_v2_features(width_mult=network.width_mult)
    sources = [
        base_net[7].conv[0].out_channels,
        base_net[14].conv[0].out_channels,
        base_net[18][0].out_channels,
    ]
    add_ons = nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(channels, PATH_CHANNELS, 1, bias=False), nn.BatchNorm2d(PATH_CHANNELS)
        )
        for channels in sources
    )
    extra_channels = [512, 256, 256, 64]
    extras = nn.ModuleList(
        InvertedResidual(in_channels, out_channels, stride=2, expand_ratio=ratio)
        for in_channels, out_channels, ratio in zip(
            [sources[-1], *extra_channels[:-1]], extra_channels, (0.2, 0.25, 0.5, 0.25), strict=True
        )
    )
    channels = [PATH_CHANNELS] * len(sources) + extra_channels
    num_priors = network.num_priors
    return PyramidSSD(
        network,
        num_classes=num_classes,
        base_net=base_net,
        source_layer_add_ons=add_ons.apply(init_xavier),
        extras=extras.apply(init_xavier),
        classification_headers=ssdlite_heads(channels, num_priors, num_classes).apply(init_xavier),
        regression_headers=ssdlite_heads(channels, num_priors, 4).apply(init_xavier),
        source_layers=SOURCE_LAYERS,
    )


def adapt_detector(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Move the heads of an mb2-ssd-lite file, which has one map less, to the maps they fit here.

    Those of its two largest maps see other channels, and are left out.
    """
    if "source_layer_add_ons.0.0.weight" in weights:
        return weights
    moved = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        if part.endswith("_headers"):
            index, _, rest = rest.partition(".")
            if int(index) < 2:
                continue
            name = f"{part}.{int(index) + 1}.{rest}"
        moved[name] = tensor
    return moved


MB2_SSD_LITE_FPN = replace(
    MB2_SSD_LITE,
    name="mb2-ssd-lite-fpn",
    build=build,
    adapt_detector=adapt_detector,
    # 24, 48, 90, 135, 180, 225, 270, 315 px of 300.
    priors=growing_sizes(
        (0.08, 0.16, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05),
        aspect_ratios=[(2, 3)] * 7,
        strides=(8, 16, 32, 64),
    ),
)
