"""The networks by name: one entry for each file of `nets/`."""

from collections.abc import Mapping
from dataclasses import replace

from vision.ssd.nets.mb1_ssd import MB1_SSD
from vision.ssd.nets.mb1_ssd_lite import MB1_SSD_LITE
from vision.ssd.nets.mb2_ssd import MB2_SSD
from vision.ssd.nets.mb2_ssd_lite import MB2_SSD_LITE
from vision.ssd.nets.mb2_ssd_lite_fpn import MB2_SSD_LITE_FPN
from vision.ssd.nets.mb3_large_ssd_lite import MB3_LARGE_SSD_LITE
from vision.ssd.nets.mb3_small_ssd_lite import MB3_SMALL_SSD_LITE
from vision.ssd.nets.sq_ssd_lite import SQ_SSD_LITE
from vision.ssd.nets.ssd300_vgg16 import SSD300_VGG16
from vision.ssd.nets.ssdlite320_mb3_large import SSDLITE320_MB3_LARGE
from vision.ssd.nets.vgg16_ssd import VGG16_SSD
from vision.ssd.network import Network
from vision.ssd.ssd import SSD

MODELS: dict[str, Network] = {
    network.name: network
    for network in (
        MB2_SSD_LITE,
        MB2_SSD_LITE_FPN,
        MB2_SSD,
        MB1_SSD,
        MB1_SSD_LITE,
        MB3_LARGE_SSD_LITE,
        MB3_SMALL_SSD_LITE,
        SQ_SSD_LITE,
        VGG16_SSD,
        SSDLITE320_MB3_LARGE,
        SSD300_VGG16,
    )
}


def get_network(name: str) -> Network:
    """Return the network called `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in MODELS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name]


def build_model(
    name: str,
    *,
    num_classes: int,
    image_size: tuple[int, int] | None = None,
    width_mult: float = 1.0,
    prior_sizes: tuple[float, ...] | None = None,
    saved: Mapping | None = None,
    resize: str | None = None,
    tiles: int | None = None,
    box_voting: float | None = None,
) -> SSD:
    """Build a network of MODELS with random weights.

    Args:
        name: a key of MODELS.
        num_classes: counts the background.
        image_size: input (height, width); the network's own default when None.
        width_mult: channels of the backbone over the usual ones, of a network that has widths.
        prior_sizes: growing shares of the image's shorter side; the network's own when None.
        saved: a checkpoint or config.json; where it has `priors`, `normalization`, `resize`,
            `tiles` and `box_voting`, these come before `prior_sizes` and the network's own.
        resize: one of RESIZES; as saved, or linear, when None.
        tiles: along each side of a photo; as saved, or 1, when None.
        box_voting: lowest IoU of a vote, 0: none; as saved, or the network's own, when None.

    Raises:
        ValueError: unknown name, an image too small for the maps, a width of a network without,
            or bad priors.
    """
    network = get_network(name).with_width(width_mult)
    if image_size:
        network = network.with_image_size(image_size)
    if prior_sizes:
        network = network.with_prior_sizes(tuple(prior_sizes))
    if saved:
        network = network.with_numbers(saved)
    if resize:
        network = replace(network, resize=resize)
    if tiles:
        network = replace(network, tiles=tiles)
    if box_voting is not None:
        network = network.with_box_voting(box_voting)
    return network.build(network, num_classes)
