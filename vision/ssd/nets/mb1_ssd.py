"""mb1-ssd: SSD with full convolutions on MobileNetV1."""

from collections.abc import Collection
from itertools import pairwise

from torch import nn

from vision.nn.mobilenet_v1 import build_mobilenet_v1_features
from vision.nn.ssd_layers import conv_extra, conv_heads, init_he
from vision.ssd.family import FamilySSD, SourceLayer
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.network import Network, family_backbone_names

# The last block of stride 16, and the last of all.
SOURCE_LAYERS = (SourceLayer(11), SourceLayer(13))
CHANNELS = (512, 1024, 512, 256, 256, 256)


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    extras = nn.ModuleList(conv_extra(*pair) for pair in pairwise(CHANNELS[1:]))
    num_priors = network.num_priors
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=build_mobilenet_v1_features(),
        extras=extras.apply(init_he),
        classification_headers=conv_heads(CHANNELS, num_priors, num_classes).apply(init_he),
        regression_headers=conv_heads(CHANNELS, num_priors, 4).apply(init_he),
        source_layers=SOURCE_LAYERS,
    )


def backbone_names(names: Collection[str]) -> dict[str, str]:
    """Name the tensors of a MobileNetV1 file as in base_net.

    The family's classifier, `mobilenet_v1_with_relu_69_5.pth`, has its features in `model.`.
    """
    found = {name: name.removeprefix("model.") for name in names if name.startswith("model.")}
    return (
        family_backbone_names(names)
        if not found
        else {name: f"base_net.{own}" for name, own in found.items()}
    )


MB1_SSD = Network(
    name="mb1-ssd",
    build=build,
    image_size=(300, 300),
    normalization=MB2_SSD_LITE.normalization,
    priors=MB2_SSD_LITE.priors,
    backbone_names=backbone_names,
)
