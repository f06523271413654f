"""mb3-large-ssd-lite: SSDLite on MobileNetV3-Large."""

from collections.abc import Collection

from torch import nn

from vision.nn.layers import ssdlite_heads
from vision.nn.mobilenet_v3 import (
    LARGE,
    Block,
    BlockSpec,
    build_mobilenet_v3_features,
    from_bneck_names,
    from_torchvision_names,
)
from vision.ssd.family import FamilySSD, SourceLayer, init_xavier
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.network import Network, family_backbone_names

# torchvision's MobileNetV3 fills 67% of the tensors of LARGE and 62% of SMALL.
MIN_MATCHED_BACKBONE = 0.6


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    # The last block with 112 channels; it has stride 16.
    return build_mb3_ssd_lite(network, num_classes, blocks=LARGE, source=SourceLayer(14))


def build_mb3_ssd_lite(
    network: Network, num_classes: int, *, blocks: tuple[BlockSpec, ...], source: SourceLayer
) -> FamilySSD:
    """Build SSDLite on a MobileNetV3 of these blocks.

    Args:
        network: with priors of six maps.
        num_classes: counts the background.
        blocks: LARGE or SMALL.
        source: the block that gives the first feature map; the last layer gives the second.
    """
    base_net = build_mobilenet_v3_features(blocks)
    first = base_net[source.index].out_channels
    last = 6 * blocks[-1].out_channels
    extras = nn.ModuleList(
        Block(in_channels, BlockSpec(3, hidden, out_channels, False, True, 2))
        for in_channels, hidden, out_channels in (
            (last, 256, 512),
            (512, 128, 256),
            (256, 128, 256),
            (256, 64, 64),
        )
    )
    channels, num_priors = (first, last, 512, 256, 256, 64), network.num_priors
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=base_net,
        extras=extras.apply(init_xavier),
        classification_headers=ssdlite_heads(channels, num_priors, num_classes).apply(init_xavier),
        regression_headers=ssdlite_heads(channels, num_priors, 4).apply(init_xavier),
        source_layers=(source, SourceLayer(len(base_net) - 1)),
    )


def backbone_names(names: Collection[str]) -> dict[str, str]:
    """Name the tensors of a MobileNetV3 file, of the family or of torchvision, as in base_net."""
    if any(name.startswith("bneck.") for name in names):
        found = from_bneck_names(names)
    elif any(".block." in name for name in names):
        found = from_torchvision_names(names)
    else:
        return family_backbone_names(names)
    return {name: f"base_net.{own}" for name, own in found.items()}


MB3_LARGE_SSD_LITE = Network(
    name="mb3-large-ssd-lite",
    build=build,
    image_size=(300, 300),
    normalization=MB2_SSD_LITE.normalization,
    priors=MB2_SSD_LITE.priors,
    backbone_names=backbone_names,
    imagenet_weights="MobileNet_V3_Large_Weights.IMAGENET1K_V2",
    min_matched_backbone=MIN_MATCHED_BACKBONE,
)
