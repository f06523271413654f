"""mb2-ssd-lite: SSDLite on MobileNetV2 (Sandler et al. 2018, section 6.2)."""

from collections.abc import Collection

from torch import nn

from vision.nn.layers import InvertedResidual, ssdlite_heads
from vision.nn.mobilenet_v2 import build_mobilenet_v2_features, from_torchvision_name, width_of
from vision.ops.priors import growing_sizes
from vision.ssd.family import FamilySSD, SourceLayer, init_xavier
from vision.ssd.network import Network, Normalization, family_backbone_names

# The expansion of block 14 (stride 16) and the last feature layer (stride 32).
SOURCE_LAYERS = (SourceLayer(14, split=3), SourceLayer(18))


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    base_net = build_mobilenet_v2_features(width_mult=network.width_mult)
    channels = [*source_channels(base_net), 512, 256, 256, 64]
    extras = nn.ModuleList(
        InvertedResidual(in_channels, out_channels, stride=2, expand_ratio=ratio)
        for in_channels, out_channels, ratio in zip(
            channels[1:-1], channels[2:], (0.2, 0.25, 0.5, 0.25), strict=True
        )
    )
    num_priors = network.num_priors
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=base_net,
        extras=extras.apply(init_xavier),
        classification_headers=ssdlite_heads(channels, num_priors, num_classes).apply(init_xavier),
        regression_headers=ssdlite_heads(channels, num_priors, 4).apply(init_xavier),
        source_layers=SOURCE_LAYERS,
    )


def source_channels(base_net: nn.Sequential) -> list[int]:
    """Read the channels of the two backbone maps off the layers, right for any width."""
    return [base_net[14].conv[0].out_channels, base_net[18][0].out_channels]


def backbone_names(names: Collection[str]) -> dict[str, str]:
    """Name the tensors of a MobileNetV2 file, of the family or of torchvision, as in base_net."""
    found = family_backbone_names(names)
    if "base_net.1.conv.0.0.weight" in found.values():
        found = {name: from_torchvision_name(own) for name, own in found.items()}
    return found


MB2_SSD_LITE = Network(
    name="mb2-ssd-lite",
    build=build,
    image_size=(300, 300),
    normalization=Normalization(mean=(127.0,) * 3, std=(128.0,) * 3),
    # 60, 105, 150, 195, 240, 285, 330 px of 300.
    priors=growing_sizes(
        (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1), aspect_ratios=[(2, 3)] * 6, strides=(16, 32, 64)
    ),
    backbone_names=backbone_names,
    imagenet_weights="MobileNet_V2_Weights.IMAGENET1K_V2",
    width_mult=1.0,
    width_of=width_of,
)
