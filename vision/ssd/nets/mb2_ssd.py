"""mb2-ssd: SSD with full convolutions on MobileNetV2, priors as torchvision's ssdlite320."""

from itertools import pairwise

from torch import nn

from vision.nn.layers import conv_bn_relu
from vision.nn.mobilenet_v2 import build_mobilenet_v2_features, width_of
from vision.nn.ssd_layers import conv_heads
from vision.ops.priors import growing_sizes
from vision.ssd.family import FamilySSD, init_xavier
from vision.ssd.nets.mb2_ssd_lite import SOURCE_LAYERS, backbone_names, source_channels
from vision.ssd.network import Network, Normalization


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    base_net = build_mobilenet_v2_features(width_mult=network.width_mult)
    channels = [*source_channels(base_net), 512, 256, 256, 128]
    extras = nn.ModuleList(
        nn.Sequential(
            *conv_bn_relu(in_channels, out_channels // 2, kernel=1),
            *conv_bn_relu(out_channels // 2, out_channels, kernel=3, stride=2),
        )
        for in_channels, out_channels in pairwise(channels[1:])
    )
    num_priors = network.num_priors
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=base_net,
        extras=extras.apply(init_xavier),
        classification_headers=conv_heads(channels, num_priors, num_classes).apply(init_xavier),
        regression_headers=conv_heads(channels, num_priors, 4).apply(init_xavier),
        source_layers=SOURCE_LAYERS,
    )


MB2_SSD = Network(
    name="mb2-ssd",
    build=build,
    image_size=(320, 320),
    normalization=Normalization(mean=(127.0,) * 3, std=(128.0,) * 3),
    # torchvision's spacing: min_ratio 0.2, max_ratio 0.95, then 1.
    priors=growing_sizes((0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0), aspect_ratios=[(2, 3)] * 6),
    backbone_names=backbone_names,
    imagenet_weights="MobileNet_V2_Weights.IMAGENET1K_V2",
    width_mult=1.0,
    width_of=width_of,
)
