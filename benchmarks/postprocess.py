#!/usr/bin/env python3
"""Post-processing a batch of outputs with 81 classes, compared with the network and with loops.

    python benchmarks/postprocess.py [--batch-size 16] [--repeats 7]

Three outputs at 300 px: of an untrained network (every class of every prior is above the threshold:
the worst case), with a few dozen objects in an image, and with one class everywhere in the image.
The peer loops over images and classes and calls torchvision's `nms` (qfgaohao's pytorch-ssd and its
forks do NMS itself in a Python loop); its detections are compared. The network is measured as in
eval_ssd.py: folded, channels-last, bf16 where the CPU has it, and with freed memory kept.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from interleaved import measure
from torch import Tensor
from torchvision.ops import nms

from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.precision import autocast, choose_precision
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ops.box_coder import decode_boxes
from vision.ssd.models import build_model
from vision.ssd.postprocess import PostProcessing, postprocess

NUM_CLASSES = 81
CPU = torch.device("cpu")


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    keep_freed_memory()
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=NUM_CLASSES)
    network = optimize_for_inference(model).to(memory_format=torch.channels_last)
    images = torch.randn(args.batch_size, 3, 300, 300).to(memory_format=torch.channels_last)
    precision = choose_precision("auto", CPU)
    orig_sizes = torch.tensor([[480, 640]] * args.batch_size)
    maps = score_maps(args.batch_size, len(model.priors_cxcywh))

    def run_network() -> None:
        with autocast(precision, CPU):
            network(images)

    tasks: dict[str, Callable] = {f"network, {precision}": run_network}
    for name, (logits, offsets) in maps.items():
        arguments = (logits, offsets, model.priors_cxcywh, orig_sizes)
        compare(name, postprocess(*arguments), by_image_and_class(*arguments))
        tasks[name] = lambda a=arguments: postprocess(*a)
        tasks[f"{name}, loops"] = lambda a=arguments: by_image_and_class(*a)
    seconds = measure(tasks, args.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(
            f"{name:26} {1000 * medians[name]:8.1f} ms a batch of {args.batch_size} "
            f"({1000 * min(values):.1f} to {1000 * max(values):.1f})"
        )
    for name in maps:
        share = medians[name] / medians[f"network, {precision}"]
        factor = medians[f"{name}, loops"] / medians[name]
        print(f"{name}: {share:.1%} of the network, {factor:.1f} times faster than loops")
    return 0


def score_maps(batch_size: int, num_priors: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits [B, P, C+1] and offsets [B, P, 4] by name."""
    offsets = 0.5 * torch.randn(batch_size, num_priors, 4)
    flat = 0.1 * torch.randn(batch_size, num_priors, NUM_CLASSES)
    sharp = torch.randn(batch_size, num_priors, NUM_CLASSES)
    sharp[..., 0] += 9
    rows = torch.randint(num_priors, (batch_size, 100))
    images = torch.arange(batch_size)[:, None]
    sharp[images, rows, torch.randint(1, NUM_CLASSES, (batch_size, 100))] += 9
    crowded = flat.clone()
    crowded[..., 1] += 4 + torch.randn(batch_size, num_priors)
    return {
        "untrained": (flat, offsets),
        "trained": (sharp, offsets),
        "one class": (crowded, offsets),
    }


def by_image_and_class(
    cls_logits: Tensor, bbox_regression: Tensor, priors_cxcywh: Tensor, orig_sizes: Tensor
) -> list[dict[str, Tensor]]:
    """Detect with a loop over images and a loop over classes."""
    results = []
    all_scores = cls_logits.softmax(dim=-1)
    all_boxes = decode_boxes(bbox_regression, priors_cxcywh).clamp(0, 1)
    for scores, boxes, (height, width) in zip(
        all_scores, all_boxes, orig_sizes.tolist(), strict=True
    ):
        found = []
        for label in range(1, NUM_CLASSES):
            candidates = (scores[:, label] > PostProcessing.score_threshold).nonzero()[:, 0]
            best, order = scores[candidates, label].sort(descending=True)
            candidates, best = candidates[order][:200], best[:200]
            kept = nms(boxes[candidates], best, PostProcessing.iou_threshold)
            found.append((boxes[candidates[kept]], best[kept], torch.full_like(kept, label)))
        boxes, scores, labels = map(torch.cat, zip(*found, strict=True))
        scores, order = scores.sort(descending=True)
        order = order[:100]
        scale = torch.tensor([width, height, width, height])
        results.append(
            {"boxes": boxes[order] * scale, "scores": scores[:100], "labels": labels[order]}
        )
    return results


def compare(name: str, ours: list[dict], peer: list[dict]) -> None:
    """Stop if the detections differ; the peer's float32 IoUs may decide one tie differently."""
    for a, b in zip(ours, peer, strict=True):
        if len(a["scores"]) != len(b["scores"]) or (a["scores"] - b["scores"]).abs().max() > 1e-4:
            raise SystemExit(f"{name}: the detections differ")


if __name__ == "__main__":
    raise SystemExit(main())
