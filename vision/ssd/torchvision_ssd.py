"""torchvision's SSDs: its modules and state-dict keys behind the interface of `SSD`."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vision.ssd.network import Network
from vision.ssd.ssd import SSD


class TorchvisionSSD(SSD):
    """A detector made of torchvision's backbone and head.

    `backbone` and `head`, and what is inside them, are torchvision's names in weight files.

    Args:
        network: the value it is built from.
        num_classes: counts the background.
        backbone: maps images to a dict of feature maps, largest first.
        head: with `classification_head` and `regression_head`, each with a `module_list`.
    """

    def __init__(self, network: Network, *, num_classes: int, backbone: nn.Module, head: nn.Module):
        super().__init__(network, num_classes=num_classes)
        self.backbone = backbone
        self.head = head
        self.place_priors()

    @property
    def classification_headers(self) -> nn.ModuleList:
        """One module a feature map."""
        return self.head.classification_head.module_list

    @property
    def regression_headers(self) -> nn.ModuleList:
        """One module a feature map."""
        return self.head.regression_head.module_list

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps [B, C_k, H_k, W_k] that the heads look at, largest first."""
        return list(self.backbone(images).values())


def own_backbone_names(names: Collection[str]) -> dict[str, str]:
    """Find the backbone of another detector of torchvision, whose names are the same."""
    return {name: name for name in names if name.startswith("backbone.")}


class NamedClasses(nn.Module):
    """A detector without those of its classes that have no name, as torchvision's COCO weights.

    Their probability is added to the background's, so that the scores of the others are what they
    were. For inference only.

    Args:
        detector: the whole network.
        labels: those of its labels that stay, ascending; they become 1..C.

    Attributes:
        network, num_classes, image_size, priors_cxcywh: as of an SSD.
    """

    def __init__(self, detector: SSD, labels: list[int]):
        super().__init__()
        self.detector = detector
        self.network = detector.network
        self.image_size = detector.image_size
        self.num_classes = len(labels) + 1
        self.labels = labels
        self.unnamed = sorted(set(range(detector.num_classes)) - set(labels))  # background among

    @property
    def priors_cxcywh(self) -> Tensor:
        """[P, 4] in 0..1."""
        return self.detector.priors_cxcywh

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for normalised images [B, 3, H, W]: [B, P, num_classes] and [B, P, 4]."""
        cls_logits, bbox_regression = self.detector(images)
        background = cls_logits[..., self.unnamed].logsumexp(dim=-1, keepdim=True)
        return torch.cat([background, cls_logits[..., self.labels]], dim=-1), bbox_regression
