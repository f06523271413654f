"""Report of a step whose loss or gradient is not finite: its values, batch and pixels."""

import io
import json
import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from vision.files.atomic_file import write_atomically

logger = logging.getLogger(__name__)
MAX_IN_A_ROW = 10


class NonFiniteError(ValueError):
    """A step was not taken because its loss or gradient is not finite."""


def report_nonfinite(
    run: Path, *, step: int, values: dict[str, float], images: Tensor, targets: list[dict]
) -> str:
    """Log the batch; write nonfinite_step_N.json, and its pixels as nonfinite_step_N.pt.

    Args:
        run: the run folder.
        step: steps done before this one.
        values: loss terms, gradient norm, learning rate and loss scale.
        images: uint8 [B, 3, H, W].
        targets: the batch's targets, boxes in pixels of the input.

    Returns:
        One line with the values, the ids of the images, and the report's file.
    """
    batch = [
        {
            "image_id": target["image_id"],
            "boxes": target["boxes"].tolist(),
            "labels": target["labels"].tolist(),
        }
        for target in targets
    ]
    for item in batch:
        boxes = [[round(side, 1) for side in box] for box in item["boxes"]]
        logger.error("image %s: boxes %s, labels %s", item["image_id"], boxes, item["labels"])
    path = run / f"nonfinite_step_{step}.json"
    try:
        _write_report(path, {"step": step, **_readable(values), "batch": batch}, images)
        where = f"see {path}"
    except OSError as error:
        where = f"{path} could not be written ({error.strerror})"
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
    image_ids = " ".join(str(item["image_id"]) for item in batch)
    return (
        f"step {step} is not finite: {terms}; images {image_ids}; {where}. "
        "Lower --lr, set --clip-grad-norm, or check these images' boxes"
    )


def _readable(values: dict[str, float]) -> dict[str, float | str]:
    """Turn numbers that are not finite into text, since JSON cannot represent them."""
    return {k: v if math.isfinite(v) else str(v) for k, v in values.items()}


def _write_report(path: Path, report: dict, images: Tensor) -> None:
    write_atomically(path, json.dumps(report, indent=1).encode())
    pixels = io.BytesIO()
    torch.save({"images": images.contiguous()}, pixels)
    write_atomically(path.with_suffix(".pt"), pixels.getvalue())
