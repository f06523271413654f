"""What is written down when a loss or gradient is not finite."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from vision.datasets.atomic_file import write_atomically

MAX_IN_A_ROW = 10


class NonFiniteError(ValueError):
    """A step was not taken because its loss or gradient is not finite."""


def report_nonfinite(
    run: Path, *, step: int, values: dict[str, float], images: Tensor, targets: list[dict]
) -> str:
    """Write nonfinite_step_N.json, and the batch's pixels as nonfinite_step_N.pt.

    Args:
        run: the run folder.
        step: steps done before this one.
        values: loss terms, gradient norm, learning rate and scale.
        images: uint8 [B, 3, H, W].
        targets: the batch's targets, boxes in pixels of the input.

    Returns:
        One line that says what was not finite, in which images, and where the report is.
    """
    batch = [
        {
            "image_id": target["image_id"],
            "boxes": target["boxes"].tolist(),
            "labels": target["labels"].tolist(),
        }
        for target in targets
    ]
    path = run / f"nonfinite_step_{step}.json"
    # JSON has no word for them, so numbers that are not finite are written as text.
    readable = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
    text = json.dumps({"step": step, **readable, "batch": batch}, indent=1)
    write_atomically(path, text.encode())
    temporary = path.with_suffix(".pt.tmp")
    torch.save({"images": images.contiguous()}, temporary)
    temporary.replace(path.with_suffix(".pt"))
    bad = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
    image_ids = " ".join(str(item["image_id"]) for item in batch)
    return (
        f"step {step}: {bad} (learning rate {values['lr']:g}); images {image_ids}; see {path}. "
        "Lower --lr, set --clip-grad-norm, or check these images' boxes"
    )
