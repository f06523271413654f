"""The numbers of the networks' priors."""

from dataclasses import dataclass
from itertools import pairwise

DEFAULT_IMAGE_SIZE = {"mb2-ssd-lite": (300, 300), "mb2-ssd": (320, 320)}
NUM_PRIORS_PER_LOCATION = 6  # two squares, and 2:1, 1:2, 3:1, 1:3


@dataclass(frozen=True)
class PriorConfig:
    """Sizes and positions of the priors, as shares of the image so that any input size works.

    Attributes:
        sizes: seven numbers; map k has squares of sizes[k] and sqrt(sizes[k] * sizes[k + 1]).
            The family's 60, 105, ... 330 px of 300.
        aspect_ratios: each r adds priors of r:1 and 1:r.
        strides: input pixels per cell of the first maps; the others spread evenly over the
            image. At 300 px the first map has 19 cells of 16 px, 304 in all: the family's
            networks were trained with centres at 8, 24, ... and not at multiples of 300 / 19.
    """

    sizes: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1)
    aspect_ratios: tuple[int, ...] = (2, 3)
    strides: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self):
        if len(self.sizes) != 7 or any(small >= large for small, large in pairwise(self.sizes)):
            raise ValueError(
                f"prior sizes {self.sizes}: give seven growing shares of the image, "
                "such as 0.1 0.2 0.35 0.5 0.65 0.8 0.95"
            )


MB2_SSD_LITE_PRIORS = PriorConfig()
# torchvision's ssdlite320 spacing: min_ratio 0.2, max_ratio 0.95, then 1.
MB2_SSD_PRIORS = PriorConfig(sizes=(0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0), strides=())
