"""sq-ssd-lite: SSDLite on SqueezeNet 1.1, without BatchNorm anywhere."""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from vision.nn.layers import ssdlite_heads
from vision.nn.squeezenet import build_squeezenet_features
from vision.nn.ssd_layers import init_he, separable_extra, separable_relu_conv
from vision.ssd.backbone_files import IMAGENET_NORMALIZATION, absorb_normalization
from vision.ssd.family import FamilySSD, SourceLayer
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.network import Network

CHANNELS = (512, 512, 512, 256, 256, 256)


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    # The padding makes 10 cells of 17, so that the strides are those of the other networks.
    extras = nn.ModuleList(
        [
            separable_extra(512, 512, padding=2),
            *(separable_extra(*pair) for pair in pairwise(CHANNELS[1:])),
        ]
    )
    heads = partial(ssdlite_heads, CHANNELS, network.num_priors, layer=separable_relu_conv)
    return FamilySSD(
        network,
        num_classes=num_classes,
        base_net=build_squeezenet_features().apply(init_he),
        extras=extras.apply(init_he),
        classification_headers=heads(num_classes).apply(init_he),
        regression_headers=heads(4).apply(init_he),
        source_layers=(SourceLayer(11),),  # the last Fire module goes to the extra layers alone
    )


def adapt_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make torchvision's SqueezeNet, which has `features.` in its names, take this input."""
    if "features.0.weight" not in weights:
        return dict(weights)
    return absorb_normalization(
        weights,
        "features.0",
        trained=IMAGENET_NORMALIZATION,
        used=MB2_SSD_LITE.normalization,
    )


SQ_SSD_LITE = Network(
    name="sq-ssd-lite",
    build=build,
    image_size=(300, 300),
    normalization=MB2_SSD_LITE.normalization,
    priors=MB2_SSD_LITE.priors,
    adapt_backbone=adapt_backbone,
    imagenet_weights="SqueezeNet1_1_Weights.IMAGENET1K_V1",
)
