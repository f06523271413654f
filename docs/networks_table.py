"""Write the README's table of networks, from MODELS: python -m docs.networks_table"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from vision.ssd.models import MODELS, build_model

README = Path(__file__).parent.parent / "README.md"
START = "<!-- networks: written by `make docs` -->\n"
END = "<!-- end of networks -->\n"
NUM_CLASSES = 81  # COCO's, and the background
HEAD = """\
| `--net` | input | parameters | multiply-adds | ms an image | AP |
| --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Measured:
    """What a run on a machine gave; `benchmarks/RESULTS.md` has the commands and the spread.

    Attributes:
        milliseconds: of one image through the network, float32, batch 1, on two cores.
        ap: on which data.
    """

    milliseconds: str = ""
    ap: str = ""


MEASURED = {
    "mb2-ssd-lite": Measured("43", "0.55 blood cells"),
    "mb2-ssd-lite-fpn": Measured("44", "0.59 blood cells"),
    "mb2-ssd": Measured("63"),
    "mb1-ssd": Measured("58"),
    "mb1-ssd-lite": Measured("42"),
    "mb3-large-ssd-lite": Measured("50"),
    "mb3-small-ssd-lite": Measured("32"),
    "sq-ssd-lite": Measured("33"),
    "vgg16-ssd": Measured("527"),
    "ssdlite320-mb3-large": Measured("42"),
    "ssd300-vgg16": Measured("537"),
}


def table() -> str:
    """Return the table: a network a row."""
    return HEAD + "".join(f"{row(name)}\n" for name in MODELS)


def row(name: str) -> str:
    """Return a network's line: sizes as it is built for COCO's classes, and what was measured."""
    model = build_model(name, num_classes=NUM_CLASSES).eval()
    height, width = model.image_size
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    measured = MEASURED.get(name, Measured())
    cells = [
        f"`{name}`",
        f"{height} x {width}",
        f"{millions:.1f} M",
        f"{count_multiply_adds(model) / 1e9:.2f} G",
        measured.milliseconds,
        measured.ap,
    ]
    return "| " + " | ".join(cells) + " |"


@torch.inference_mode()
def count_multiply_adds(model: torch.nn.Module) -> int:
    """Count those of the convolutions for one image of the model's `image_size`."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *model.image_size))
    return counter.get_total_flops() // 2


def with_table(text: str) -> str:
    """Return the README's text with the table between its marks."""
    head, rest = text.split(START)
    _, tail = rest.split(END)
    return f"{head}{START}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
