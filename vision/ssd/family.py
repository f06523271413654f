"""An SSD laid out as those of qfgaohao's pytorch-ssd, whose weight files people have."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from vision.ssd.network import Network
from vision.ssd.ssd import SSD


class SourceLayer(NamedTuple):
    """A feature map of the backbone: after `base_net[index]`, or inside that block.

    With `split`, the map is what the first `split` layers of the block's `conv` give. With
    `add_on`, the heads see the map through that one of the network's add-ons; what flows on
    through the backbone does not go through it.
    """

    index: int
    split: int | None = None
    add_on: int | None = None


class FamilySSD(SSD):
    """A backbone with source layers, extra layers that each give a map, and heads.

    `base_net`, `source_layer_add_ons`, `extras`, `classification_headers` and
    `regression_headers`, and the indices inside them, are names in weight files.
    """

    def __init__(
        self,
        network: Network,
        *,
        num_classes: int,
        base_net: nn.Sequential,
        extras: nn.ModuleList,
        classification_headers: nn.ModuleList,
        regression_headers: nn.ModuleList,
        source_layers: Sequence[SourceLayer],
        source_layer_add_ons: Sequence[nn.Module] = (),
    ):
        super().__init__(network, num_classes=num_classes)
        self.base_net = base_net
        self.source_layer_add_ons = nn.ModuleList(source_layer_add_ons)
        self.extras = extras
        self.classification_headers = classification_headers
        self.regression_headers = regression_headers
        self.source_layers = tuple(source_layers)
        self.place_priors()

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
                found = x = block(x)
            else:
                # The block has stride 2, so there is no residual connection to keep.
                found = block.conv[: source.split](x)
                x = block.conv[source.split :](found)
            if source.add_on is not None:
                found = self.source_layer_add_ons[source.add_on](found)
            maps.append(found)
            start = source.index + 1
        for layer in self.base_net[start:]:
            x = layer(x)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        return maps


def init_xavier(module: nn.Module) -> None:
    """Initialise a convolution as the family does; for `Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
