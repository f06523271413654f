"""ssd300-vgg16: torchvision's SSD300 on VGG-16 (Liu et al. 2016)."""

import re
from collections.abc import Collection

from torch import nn

from vision.ops.priors import growing_sizes
from vision.ssd.network import Network, Normalization, Parts
from vision.ssd.postprocess import PostProcessing
from vision.ssd.torchvision_ssd import TorchvisionSSD, own_backbone_names

CHANNELS = [512, 1024, 512, 256, 256, 256]
POOL4 = 23  # of VGG-16's feature layers; the first map is taken before it


def build(network: Network, num_classes: int) -> TorchvisionSSD:
    """Build it with random weights; `num_classes` counts the background."""
    from torchvision.models.detection.ssd import SSDFeatureExtractorVGG, SSDHead
    from torchvision.models.vgg import cfgs, make_layers

    # Not torchvision's vgg16(), whose classifier of 120 million weights would be thrown away.
    features = make_layers(cfgs["D"]).apply(_init_kaiming)
    return TorchvisionSSD(
        network,
        num_classes=num_classes,
        backbone=SSDFeatureExtractorVGG(features, highres=False),
        head=SSDHead(CHANNELS, network.num_priors, num_classes),
    )


def _init_kaiming(module: nn.Module) -> None:
    """Initialise a convolution as torchvision's vgg16 does."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)


def backbone_names(names: Collection[str]) -> dict[str, str]:
    """Name VGG-16's convolutions as in the network: of torchvision's vgg16, or of a detector."""
    found = own_backbone_names(names)
    for name in names:
        match = re.fullmatch(r"(?:features\.)?(\d+)\.(weight|bias)", name)
        if match and int(match[1]) < POOL4:
            found[name] = f"backbone.features.{match[1]}.{match[2]}"
        elif match and int(match[1]) < 30:
            found[name] = f"backbone.extra.0.{int(match[1]) - POOL4}.{match[2]}"
    return found


SSD300_VGG16 = Network(
    name="ssd300-vgg16",
    build=build,
    image_size=(300, 300),
    # torchvision's rounded ImageNet means of 0..1, times 255.
    normalization=Normalization(
        mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255), std=(1.0, 1.0, 1.0)
    ),
    priors=growing_sizes(
        (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        aspect_ratios=[(2,), (2, 3), (2, 3), (2, 3), (2,), (2,)],
        strides=(8, 16, 32, 64),
        clamp_centers=False,
    ),
    parts=Parts(
        # conv1_1 to conv5_3; fc6 and fc7, which no ImageNet file has, count as extra layers.
        backbone=("backbone.features.", *(f"backbone.extra.0.{i}." for i in (1, 3, 5))),
        extra_layers=(
            "backbone.scale_weight",
            "backbone.extra.0.7.",
            *(f"backbone.extra.{i}." for i in range(1, 5)),
        ),
        heads=("head.regression_head.", "head.classification_head."),
    ),
    backbone_names=backbone_names,
    imagenet_weights="VGG16_Weights.IMAGENET1K_FEATURES",
    coco_weights="SSD300_VGG16_Weights.COCO_V1",
    postprocessing=PostProcessing(
        score_threshold=0.01,
        iou_threshold=0.45,
        candidates_per_class=400,
        detections_per_image=200,
    ),
    min_image_size=268,
)
