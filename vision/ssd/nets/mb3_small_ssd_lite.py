"""mb3-small-ssd-lite: SSDLite on MobileNetV3-Small."""

from vision.nn.mobilenet_v3 import SMALL
from vision.ssd.family import FamilySSD, SourceLayer
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.nets.mb3_large_ssd_lite import (
    MIN_MATCHED_BACKBONE,
    backbone_names,
    build_mb3_ssd_lite,
)
from vision.ssd.network import Network


def build(network: Network, num_classes: int) -> FamilySSD:
    """Build it with random weights; `num_classes` counts the background."""
    # The last block with 48 channels; it has stride 16.
    return build_mb3_ssd_lite(network, num_classes, blocks=SMALL, source=SourceLayer(10))


MB3_SMALL_SSD_LITE = Network(
    name="mb3-small-ssd-lite",
    build=build,
    image_size=(300, 300),
    normalization=MB2_SSD_LITE.normalization,
    priors=MB2_SSD_LITE.priors,
    backbone_names=backbone_names,
    imagenet_weights="MobileNet_V3_Small_Weights.IMAGENET1K_V1",
    min_matched_backbone=MIN_MATCHED_BACKBONE,
)
