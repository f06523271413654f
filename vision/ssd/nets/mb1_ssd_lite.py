"""mb1-ssd-lite: SSDLite on MobileNetV1, without BatchNorm in its extra layers and heads."""

from functools import partial
from itertools import pairwise

from torch import nn

from vision.nn.layers import ssdlite_heads
from vision.nn.mobilenet_v1 import build_mobilenet_v1_features
from vision.nn.ssd_layers import init_he, separable_extra, separable_relu_conv
from vision.ssd.family import FamilySSD
from vision.ssd.nets.mb1_ssd import CHANNELS, SOURCE_LAYERS, backbone_names
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.network import Network


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    extras = nn.ModuleList(separable_extra(*pair) for pair in pairwise(CHANNELS[1:]))
    heads = partial(ssdlite_heads, CHANNELS, network.num_priors, layer=separable_relu_conv)
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=build_mobilenet_v1_features(),
        extras=extras.apply(init_he),
        classification_headers=heads(num_classes).apply(init_he),
        regression_headers=heads(4).apply(init_he),
        source_layers=SOURCE_LAYERS,
    )


MB1_SSD_LITE = Network(
    name="mb1-ssd-lite",
    build=build,
    image_size=(300, 300),
    normalization=MB2_SSD_LITE.normalization,
    priors=MB2_SSD_LITE.priors,
    backbone_names=backbone_names,
)
