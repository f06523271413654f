#!/usr/bin/env python3
"""Matching and loss: their share of a training step, compared with a loop over the images.

    python benchmarks/matching_loss.py [--batch-size 64] [--boxes 100] [--repeats 5]

mb2-ssd-lite at 300 px with 81 classes, in turn in one run: the whole training step as in
train_ssd.py (bf16 where the CPU has it), and its matching and loss alone, forward and backward to
the gradients of cls_logits and bbox_regression. The peer does the same image by image with
torchvision's `box_iou`, as torchvision's own SSD does; the losses are compared. The last line is
the share of the step; wanted: at most 5 %.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from interleaved import measure
from torch import Tensor
from torchvision.ops import box_iou
from training_loop import CPU, build

from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.precision import autocast, choose_precision
from vision.engine.step import StepOptions, train_step
from vision.ops.box_coder import cxcywh_to_xyxy, encode_boxes
from vision.ssd.loss import MultiBoxLoss
from vision.transforms.normalize import normalize_images

NUM_CLASSES = 81
SIZE = 300


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--boxes", type=int, default=100, help="an image")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    keep_freed_memory()  # as train_ssd.py does
    state, loss_fn = build(NUM_CLASSES)
    options = StepOptions(CPU, precision=choose_precision("auto", CPU))
    images = torch.randint(256, (args.batch_size, 3, SIZE, SIZE), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = [draw_target(args.boxes) for _ in images]
    with autocast(options.precision, CPU), torch.no_grad():
        inputs = normalize_images(images, **vars(state.model.network.normalization))
        outputs = [x.detach().requires_grad_() for x in state.model(inputs)]
    compare(loss_fn(*outputs, targets)["loss"], loss_by_image(loss_fn, *outputs, targets))

    def run(make_loss: Callable[..., Tensor]) -> None:
        torch.autograd.grad(make_loss(*outputs, targets), outputs)

    tasks = {
        "step": lambda: train_step(state, images, targets, loss_fn, options=options),
        "ours": lambda: run(lambda *inputs: loss_fn(*inputs)["loss"]),
        "peer": lambda: run(lambda *inputs: loss_by_image(loss_fn, *inputs)),
    }
    seconds = measure(tasks, args.repeats)
    print(f"batch {args.batch_size}, {args.boxes} boxes an image, {options.precision}")
    names = {
        "step": "the whole step",
        "ours": "its matching and loss",
        "peer": "image by image with box_iou",
    }
    for key, values in seconds.items():
        print(
            f"{names[key]:28} {1000 * statistics.median(values):7.1f} ms "
            f"({1000 * min(values):.1f} to {1000 * max(values):.1f})"
        )
    ratio("image by image / ours", seconds["peer"], seconds["ours"], ".1f")
    ratio("image by image, share of the step", seconds["peer"], seconds["step"], ".1%")
    ratio("matching and loss, share of the step", seconds["ours"], seconds["step"], ".1%")
    return 0


def draw_target(num_boxes: int) -> dict[str, Tensor]:
    """Boxes of 8 to 150 px a side, anywhere in the image."""
    corner, size = torch.rand(2, num_boxes, 2)
    size = 8 + 142 * size**2
    corner = corner * (SIZE - size)
    return {
        "boxes": torch.cat([corner, corner + size], dim=1),
        "labels": torch.randint(1, NUM_CLASSES, (num_boxes,)),
        "iscrowd": torch.zeros(num_boxes, dtype=torch.bool),
    }


def loss_by_image(
    loss_fn: MultiBoxLoss, cls_logits: Tensor, bbox_regression: Tensor, targets: list[dict]
) -> Tensor:
    """Compute the MultiBox loss with a loop over the images."""
    priors = loss_fn.priors_cxcywh
    corners = cxcywh_to_xyxy(priors)
    total = cls_logits.new_zeros((), dtype=torch.float32)
    num_positives = 0
    for logits, regression, target in zip(
        cls_logits.float(), bbox_regression.float(), targets, strict=True
    ):
        boxes = target["boxes"] / loss_fn.box_scale
        iou = box_iou(boxes, corners)
        best_iou, best_box = iou.max(dim=0)
        for box, prior in enumerate(iou.argmax(dim=1).tolist()):
            best_box[prior], best_iou[prior] = box, 2
        positive = best_iou >= loss_fn.iou_threshold
        labels = torch.where(positive, target["labels"][best_box], 0)
        losses = F.cross_entropy(logits, labels, reduction="none")
        ranked = losses.detach().masked_fill(positive, -torch.inf).sort(descending=True).indices
        negative = ranked[: int(loss_fn.neg_pos_ratio * max(1, int(positive.sum())))]
        encoded = encode_boxes(boxes[best_box[positive]], priors[positive])
        total = total + losses[positive].sum() + losses[negative].sum()
        total = total + F.smooth_l1_loss(regression[positive], encoded, reduction="sum")
        num_positives += max(1, int(positive.sum()))
    return total / num_positives


def compare(ours: Tensor, peer: Tensor) -> None:
    """Stop if the losses differ; the epsilon in our IoU may change a few priors."""
    if not torch.isclose(ours, peer, rtol=0.01):
        raise SystemExit(f"the losses differ: {ours.item()} and {peer.item()}")


def ratio(name: str, above: list[float], below: list[float], form: str) -> None:
    """Print the median and the range of the ratio over the repeats."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    spread = f"{min(ratios):{form}} to {max(ratios):{form}}"
    print(f"{name}: {statistics.median(ratios):{form}} ({spread})")


if __name__ == "__main__":
    raise SystemExit(main())
