"""The SSD network: feature maps, and prediction heads on each of them."""

import torch
from torch import Tensor, nn

from vision.ops.priors import build_priors
from vision.ssd.network import Network


class SSD(nn.Module):
    """Single Shot MultiBox Detector (Liu et al. 2016): what every network of MODELS is.

    A subclass makes its layers, gives `feature_maps` and the two lists of heads, and calls
    `place_priors` at the end of its `__init__`.

    Attributes:
        network: the value it was built from, with its input size, normalisation and priors.
        num_classes: counts the background, label 0.
        classification_headers: one module a feature map.
        regression_headers: one module a feature map.
        priors_cxcywh: [P, 4] in 0..1; a buffer that is not part of the state dict.
    """

    classification_headers: nn.ModuleList
    regression_headers: nn.ModuleList
    priors_cxcywh: Tensor

    def __init__(self, network: Network, *, num_classes: int):
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    @property
    def image_size(self) -> tuple[int, int]:
        """Input (height, width)."""
        return self.network.image_size

    def place_priors(self) -> None:
        """Lay the priors out on the feature maps, whose sizes the layers decide."""
        priors = build_priors(self.feature_map_sizes(), self.image_size, self.network.priors)
        self.register_buffer("priors_cxcywh", priors, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for normalised images, the same in training and evaluation.

        Args:
            images: float [B, 3, H, W].

        Returns:
            cls_logits [B, P, num_classes] and bbox_regression [B, P, 4].
        """
        feature_maps = self.feature_maps(images)
        cls_logits = [
            _by_prior(head(x), self.num_classes)
            for head, x in zip(self.classification_headers, feature_maps, strict=True)
        ]
        bbox_regression = [
            _by_prior(head(x), 4)
            for head, x in zip(self.regression_headers, feature_maps, strict=True)
        ]
        return torch.cat(cls_logits, dim=1), torch.cat(bbox_regression, dim=1)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps [B, C_k, H_k, W_k] that the heads look at, largest first."""
        raise NotImplementedError

    @torch.no_grad()
    def feature_map_sizes(self) -> list[tuple[int, int]]:
        """Run one black image through the network and read off the maps' (height, width)."""
        was_training, device = self.training, next(self.parameters()).device
        self.eval()  # BatchNorm's statistics stay as they are
        maps = self.feature_maps(torch.zeros(1, 3, *self.image_size, device=device))
        self.train(was_training)
        return [tuple(x.shape[-2:]) for x in maps]


def _by_prior(x: Tensor, num_values: int) -> Tensor:
    """Turn a head's [B, K * num_values, H, W] into [B, H * W * K, num_values]."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, num_values)
