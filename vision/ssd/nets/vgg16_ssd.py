"""vgg16-ssd: the SSD300 of the paper (Liu et al. 2016) on VGG16."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from vision.nn.ssd_layers import conv_extra, conv_heads, init_he, valid_conv_extra
from vision.nn.vgg import build_vgg16_features, conv6_from_fc6, conv7_from_fc7
from vision.ops.priors import growing_sizes
from vision.ssd.backbone_files import IMAGENET_NORMALIZATION, absorb_normalization
from vision.ssd.family import FamilySSD, SourceLayer
from vision.ssd.network import Network, Normalization

# conv4_3 and conv7, each behind its ReLU.
SOURCE_LAYERS = (SourceLayer(22, add_on=0), SourceLayer(34))
CHANNELS = (512, 1024, 512, 256, 256, 256)
NORMALIZATION = Normalization(mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background.

    The paper scales conv4_3's map, whose values are larger than the others', to length 20 in each
    place (section 3.1); the family's weight files have a BatchNorm there.
    """
    base_net = build_vgg16_features().apply(init_he)
    with torch.no_grad():
        base_net[0].weight /= 64  # the input's values are this large, and there is no BatchNorm
    layers = (conv_extra, conv_extra, valid_conv_extra, valid_conv_extra)
    extras = nn.ModuleList(
        layer(*pair) for layer, pair in zip(layers, pairwise(CHANNELS[1:]), strict=True)
    )
    num_priors = network.num_priors
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=base_net,
        extras=extras.apply(init_he),
        classification_headers=conv_heads(CHANNELS, num_priors, num_classes).apply(init_he),
        regression_headers=conv_heads(CHANNELS, num_priors, 4).apply(init_he),
        source_layers=SOURCE_LAYERS,
        source_layer_add_ons=[nn.BatchNorm2d(512)],
    )


def adapt_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make torchvision's VGG16 fit: its classifier becomes conv6 and conv7, its input this one.

    A file without a classifier is taken to be trained on the paper's input, which is this
    network's: torchvision's IMAGENET1K_FEATURES are, whose classifier is not a number.
    """
    if "classifier.0.weight" not in weights:
        return dict(weights)
    conv6 = conv6_from_fc6(weights["classifier.0.weight"])
    if not conv6.isfinite().all():
        return dict(weights)
    weights = absorb_normalization(
        weights, "features.0", trained=IMAGENET_NORMALIZATION, used=NORMALIZATION
    )
    return {
        **weights,
        "features.31.weight": conv6,
        "features.31.bias": weights["classifier.0.bias"][::4].clone(),
        "features.33.weight": conv7_from_fc7(weights["classifier.3.weight"]),
        "features.33.bias": weights["classifier.3.bias"][::4].clone(),
    }


VGG16_SSD = Network(
    name="vgg16-ssd",
    build=build,
    image_size=(300, 300),
    normalization=NORMALIZATION,
    # 30, 60, 111, ... 315 px of 300.
    priors=growing_sizes(
        (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
        aspect_ratios=[(2,), (2, 3), (2, 3), (2, 3), (2,), (2,)],
        strides=(8, 16, 32, 64),
    ),
    adapt_backbone=adapt_backbone,
    # The paper's own weights, for the paper's input; without conv6 and conv7, 4 of 30 tensors.
    imagenet_weights="VGG16_Weights.IMAGENET1K_FEATURES",
    min_matched_backbone=0.8,
    # SGD's is then the paper's 0.001; with 0.01 the loss is not a number after 3 steps from random
    # weights. AdamW learned with 0.002 too, but needed twice as many steps for --overfit 8
    # as with 0.0002.
    lr_scale=0.1,
)
