"""The networks of MODELS, as small as each can be, for tests that go through all of them."""

from vision.ssd.models import MODELS, build_model
from vision.ssd.ssd import SSD


def build_small(name: str, *, num_classes: int = 3, image_size: tuple[int, int] = (96, 96)) -> SSD:
    """Build a network at a quarter of its width, where it has widths, and at its least input."""
    network = MODELS[name]
    least = network.min_image_size
    return build_model(
        name,
        num_classes=num_classes,
        image_size=(max(image_size[0], least), max(image_size[1], least)),
        width_mult=0.25 if network.width_mult else 1.0,
    )
