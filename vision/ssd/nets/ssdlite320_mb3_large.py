"""ssdlite320-mb3-large: torchvision's SSDLite on MobileNetV3 (Howard et al. 2019, section 6.3)."""

from functools import partial

from torch import nn

from vision.ops.priors import growing_sizes
from vision.ssd.network import Network, Normalization, Parts
from vision.ssd.postprocess import PostProcessing
from vision.ssd.torchvision_ssd import TorchvisionSSD, own_backbone_names

CHANNELS = [672, 480, 512, 256, 256, 128]


def build(network: Network, num_classes: int) -> TorchvisionSSD:
    """Build it with random weights; `num_classes` counts the background."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.models.detection.ssdlite import SSDLiteHead

    norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)  # torchvision's for this network
    detector = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=1, norm_layer=norm_layer
    )
    head = SSDLiteHead(CHANNELS, network.num_priors, num_classes, norm_layer)
    return TorchvisionSSD(network, num_classes=num_classes, backbone=detector.backbone, head=head)


SSDLITE320_MB3_LARGE = Network(
    name="ssdlite320-mb3-large",
    build=build,
    image_size=(320, 320),
    normalization=Normalization(mean=(127.5,) * 3, std=(127.5,) * 3),
    # torchvision's min_ratio 0.2, max_ratio 0.95, then 1.
    priors=growing_sizes((0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0), aspect_ratios=[(2, 3)] * 6),
    parts=Parts(
        backbone=("backbone.features.",),
        extra_layers=("backbone.extra.",),
        heads=("head.regression_head.", "head.classification_head."),
    ),
    # No ImageNet weights: the last blocks have half of MobileNetV3's channels ("reduced tail").
    backbone_names=own_backbone_names,
    coco_weights="SSDLite320_MobileNet_V3_Large_Weights.COCO_V1",
    postprocessing=PostProcessing(
        score_threshold=0.001,
        iou_threshold=0.55,
        candidates_per_class=300,
        detections_per_image=300,
    ),
)
