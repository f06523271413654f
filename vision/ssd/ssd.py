"""The SSD network: a backbone, extra layers, and heads on six feature maps."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vision.ops.priors import build_priors
from vision.ssd.config import PriorConfig


class SourceLayer(NamedTuple):
    """A feature map of the backbone: after `base_net[index]`, or inside that block.

    With `split`, the map is what the first `split` layers of the block's `conv` give.
    """

    index: int
    split: int | None = None


class SSD(nn.Module):
    """Single Shot MultiBox Detector (Liu et al. 2016).

    `base_net`, `source_layer_add_ons`, `extras`, `classification_headers` and
    `regression_headers`, and the indices inside them, are the family's parameter names.

    Attributes:
        num_classes: counts the background, label 0.
        image_size: input (height, width).
        priors_cxcywh: [P, 4] in 0..1; a buffer that is not part of the state dict.
    """

    def __init__(
        self,
        base_net: nn.Sequential,
        extras: nn.ModuleList,
        classification_headers: nn.ModuleList,
        regression_headers: nn.ModuleList,
        *,
        source_layers: Sequence[SourceLayer],
        num_classes: int,
        image_size: tuple[int, int],
        prior_config: PriorConfig,
    ):
        super().__init__()
        self.base_net = base_net
        self.source_layer_add_ons = nn.ModuleList()
        self.extras = extras
        self.classification_headers = classification_headers
        self.regression_headers = regression_headers
        self.source_layers = tuple(source_layers)
        self.num_classes = num_classes
        self.image_size = image_size
        priors = build_priors(
            self.feature_map_sizes(),
            image_size,
            sizes=prior_config.sizes,
            aspect_ratios=prior_config.aspect_ratios,
            strides=prior_config.strides,
        )
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
        maps = []
        x = images
        start = 0
        for source in self.source_layers:
            for layer in self.base_net[start : source.index]:
                x = layer(x)
            block = self.base_net[source.index]
            if source.split is None:
                x = block(x)
                maps.append(x)
            else:
                # The block has stride 2, so there is no residual connection to keep.
                x = block.conv[: source.split](x)
                maps.append(x)
                x = block.conv[source.split :](x)
            start = source.index + 1
        for layer in self.base_net[start:]:
            x = layer(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        return maps

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
