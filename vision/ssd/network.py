"""What a network is, as one value: how it is built, and the numbers that belong to it."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from vision.ops.priors import PriorMap, growing_sizes
from vision.ops.tiles import MAX_TILES
from vision.ssd.postprocess import PostProcessing

if TYPE_CHECKING:
    from vision.ssd.ssd import SSD

MOST_SHAPES = 100  # of a map's priors; the heads grow with them, and a short file may list millions
MAX_IMAGE_SIZE = 16_384  # px
WIDTHS = (0.1, 10.0)  # channels of a backbone over the usual ones


@dataclass(frozen=True)
class Normalization:
    """The input is (x - mean) / std, for each of R, G and B in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# How an image is brought to the input's size: between the nearest pixels, or one pixel each, as
# NVIDIA's detectNet does.
RESIZES = ("linear", "point")


@dataclass(frozen=True)
class Parts:
    """Where the parts of a network are: beginnings of parameter names.

    The order is that of the optimizer's parameters in checkpoints.

    Attributes:
        backbone: what a trained backbone can fill, --base-net-lr and --freeze-base-net speak of.
        extra_layers: what comes between backbone and heads.
        heads: the prediction layers.
    """

    backbone: tuple[str, ...]
    extra_layers: tuple[str, ...]
    heads: tuple[str, ...]


FAMILY_PARTS = Parts(
    backbone=("base_net.",),
    extra_layers=("source_layer_add_ons.", "extras."),
    heads=("regression_headers.", "classification_headers."),
)


def family_backbone_names(names: Collection[str]) -> dict[str, str]:
    """Name the tensors of a backbone file as in the state dict of one of the family's networks.

    Args:
        names: of the file: with `base_net.` (a detector's file), `features.` or no prefix.

    Returns:
        {name in the file: name in the network}; without those that are not the backbone's.
    """
    prefix = next(
        (p for p in ("base_net.", "features.") if any(n.startswith(p) for n in names)), ""
    )
    return {n: "base_net." + n.removeprefix(prefix) for n in names if n.startswith(prefix)}


@dataclass(frozen=True)
class Network:
    """A network of `vision.ssd.models.MODELS`, or one configured for a run.

    Attributes:
        name: what --net takes.
        build: makes the module with random weights, from this value and the number of classes
            with the background.
        image_size: input (height, width); in MODELS the default.
        normalization: of the input.
        priors: of each feature map, largest map first.
        parts: which parameters are backbone, extra layers and heads.
        backbone_names: from the names in a backbone file to those in the network's state dict, as
            `family_backbone_names` does.
        adapt_backbone: changes a backbone file's tensors before they are named, where some have to
            be made of others.
        adapt_detector: the same for a detector's file, where another network's is of use.
        min_matched_backbone: share of the backbone's tensors that a file has to fill; with less it
            is a file for another network.
        imagenet_weights: torchvision's name of a trained backbone, which --base-net imagenet loads.
        coco_weights: torchvision's name of the trained detector, which --pretrained-ssd torchvision
            loads.
        lr_scale: the default learning rate over that of the other networks.
        postprocessing: how its detections are selected.
        min_image_size: pixels; of smaller inputs the last layers have nothing to look at.
        width_mult: channels of the backbone over its usual ones; None: it has one width.
        width_of: reads `width_mult` off the weights of a file.
        resize: of an image to the input's size, one of RESIZES.
        tiles: along each side of a photo, which is then looked at whole and in tiles; 1: whole.
    """

    name: str
    build: Callable[["Network", int], "SSD"]
    image_size: tuple[int, int]
    normalization: Normalization
    priors: tuple[PriorMap, ...]
    parts: Parts = FAMILY_PARTS
    backbone_names: Callable[[Collection[str]], dict[str, str]] = family_backbone_names
    adapt_backbone: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    adapt_detector: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    min_matched_backbone: float = 0.9
    imagenet_weights: str | None = None
    coco_weights: str | None = None
    lr_scale: float = 1.0
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    min_image_size: int = 96
    width_mult: float | None = None
    width_of: Callable[[Mapping[str, Tensor]], float] | None = None
    resize: str = "linear"
    tiles: int = 1

    @property
    def num_priors(self) -> list[int]:
        """Count the priors of a cell of each feature map."""
        return [len(prior_map.shapes) for prior_map in self.priors]

    def with_image_size(self, image_size: tuple[int, int]) -> "Network":
        """Take inputs of another (height, width).

        Raises:
            ValueError: too small, or larger than any machine serves.
        """
        if max(image_size) > MAX_IMAGE_SIZE:
            raise ValueError(
                f"image size {tuple(image_size)}: each side must be {MAX_IMAGE_SIZE} px or less"
            )
        if min(image_size) < self.min_image_size:
            raise ValueError(
                f"image size {tuple(image_size)}: each side must be "
                f"{self.min_image_size} px or more for {self.name}"
            )
        return replace(self, image_size=tuple(image_size))

    def with_width(self, width_mult: float) -> "Network":
        """Change the channels of the backbone.

        Raises:
            ValueError: out of WIDTHS, or this network has one width.
        """
        if not WIDTHS[0] <= width_mult <= WIDTHS[1]:
            raise ValueError(f"width {width_mult:g}: must be between {WIDTHS[0]} and {WIDTHS[1]}")
        if self.width_mult is None and width_mult != 1:
            raise ValueError(
                f"--mb2-width-mult {width_mult:g}: {self.name} has one width; leave the flag out, "
                "or take a network on MobileNetV2"
            )
        return self if self.width_mult is None else replace(self, width_mult=width_mult)

    def with_prior_sizes(self, sizes: tuple[float, ...]) -> "Network":
        """Change the priors' sizes; their aspect ratios and strides stay.

        Args:
            sizes: one more than there are maps, growing shares of the image's shorter side.

        Raises:
            ValueError: other sizes, or the network's priors are not those of growing sizes.
        """
        ratios = [[round(w / h) for w, h in prior_map.shapes[2::2]] for prior_map in self.priors]
        grown = growing_sizes(sizes, aspect_ratios=ratios)
        if self._aspect_ratios() != replace(self, priors=grown)._aspect_ratios():
            raise ValueError(f"--prior-sizes: {self.name} has priors of its own; see --priors")
        return replace(
            self,
            priors=tuple(
                replace(old, shapes=new.shapes) for old, new in zip(self.priors, grown, strict=True)
            ),
        )

    def _aspect_ratios(self) -> list[list[float]]:
        return [[round(w / h, 6) for w, h in prior_map.shapes] for prior_map in self.priors]

    def with_box_voting(self, iou_threshold: float) -> "Network":
        """Let boxes with a higher IoU than this vote on a detection's place; 0: none do."""
        return replace(self, postprocessing=self.postprocessing.changed(voting_iou=iou_threshold))

    def as_numbers(self) -> dict:
        """Return what checkpoints and config.json keep, each under its name."""
        return {
            "priors": [
                {
                    "shapes": [list(shape) for shape in prior_map.shapes],
                    "stride": prior_map.stride,
                    "clamp_centers": prior_map.clamp_centers,
                }
                for prior_map in self.priors
            ],
            "normalization": {
                name: list(values) for name, values in asdict(self.normalization).items()
            },
            "resize": self.resize,
            "tiles": self.tiles,
            "box_voting": self.postprocessing.voting_iou,
        }

    def with_numbers(self, saved: Mapping) -> "Network":
        """Take what `as_numbers` gives from a checkpoint or config.json, as far as it has it.

        Raises:
            ValueError: they are not what `as_numbers` gives, or for another number of maps.
        """
        changes: dict = {}
        try:
            if "priors" in saved:
                changes["priors"] = tuple(map(_read_prior_map, saved["priors"]))
            if "normalization" in saved:
                changes["normalization"] = _read_normalization(saved["normalization"])
            if "resize" in saved:
                changes["resize"] = RESIZES[RESIZES.index(saved["resize"])]
            if "tiles" in saved:
                changes["tiles"] = range(MAX_TILES + 1)[_positive(saved["tiles"])]
            if "box_voting" in saved:
                voting = self.with_box_voting(_from_0_below_1(saved["box_voting"]))
                changes["postprocessing"] = voting.postprocessing
        except (LookupError, TypeError, ValueError, OverflowError):
            raise ValueError(
                "its priors, normalization, resize, tiles or box_voting are not what this toolkit "
                "writes"
            ) from None
        network = replace(self, **changes)
        if len(network.priors) != len(self.priors):
            raise ValueError(
                f"it has priors for {len(network.priors)} feature maps, "
                f"{self.name} has {len(self.priors)}"
            )
        return network


def _read_prior_map(saved: dict) -> PriorMap:
    shapes = tuple((_positive(width), _positive(height)) for width, height in saved["shapes"])
    if not 0 < len(shapes) <= MOST_SHAPES or not all(
        1e-6 <= side <= 1e6 for shape in shapes for side in shape
    ):
        raise ValueError  # float32 would make 0 or infinity of others' areas
    stride = saved["stride"] if saved["stride"] is None else _positive(saved["stride"])
    return PriorMap(shapes, stride, bool(saved["clamp_centers"]))


def _read_normalization(saved: dict) -> Normalization:
    red, green, blue = (float(x) for x in saved["mean"])
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError
    red_std, green_std, blue_std = map(_positive, saved["std"])
    return Normalization((red, green, blue), (red_std, green_std, blue_std))


def _from_0_below_1(number: float) -> float:
    if not 0 <= number < 1:
        raise ValueError
    return float(number)


def _positive(number: float) -> float:
    if not (math.isfinite(number) and number > 0):
        raise ValueError
    return number
