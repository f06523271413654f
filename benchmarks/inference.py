#!/usr/bin/env python3
"""Inference of mb2-ssd-lite on the CPU, one image and a batch of 16, against the family's way.

    python benchmarks/inference.py [--repeats 9] [--threads 2]

All at 81 classes, 300 px, interleaved in one run. The family's way is float32 in the contiguous
layout with BatchNorm as layers. Ours is what Predictor runs: BatchNorm folded, channels-last, in
float32 and in bf16. torchvision's ssdlite320 (MobileNetV3, 91 classes, 320 px) is measured as it
comes, its own post-processing included; the last lines are Predictor's whole way from a 640x480
array to detections.
"""

import argparse
import statistics

import numpy as np
import torch
from postprocess import measure
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from vision.engine.predict import DTYPES, Resize
from vision.nn.fold import fold_batch_norm
from vision.ssd.models import build_model
from vision.ssd.predictor import Predictor
from vision.transforms.normalize import normalize_images

DTYPES_OF_CPU = ("fp32", "bf16")


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=81).eval()
    peer = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    lines = []
    for batch_size in (1, 16):
        medians = measure_batch(model, peer, batch_size, args.repeats)
        ratios = [f"{medians['family'] / medians[name]:.2f} ({name})" for name in DTYPES_OF_CPU]
        lines.append(f"batch {batch_size}: times faster than the family: {', '.join(ratios)}")
        if batch_size == 1:
            shares = [f"{medians[n] / medians['family']:.2f} ({n})" for n in DTYPES_OF_CPU]
            lines.append(f"one image: share of the family's time: {', '.join(shares)}")
    print("\n".join(lines))
    return 0


def measure_batch(model, peer, batch_size: int, repeats: int) -> dict[str, float]:
    """Time all ways at one batch size, and print a line for each."""
    images = torch.randn(batch_size, 3, 300, 300)
    tasks = {"family": lambda: model(images)}
    for name in DTYPES_OF_CPU:
        folded = fold_batch_norm(model).to(DTYPES[name], memory_format=torch.channels_last)
        inputs = images.to(DTYPES[name], memory_format=torch.channels_last)
        tasks[name] = lambda network=folded, x=inputs: network(x)
    peer_images = list(torch.rand(batch_size, 3, 320, 320))
    tasks["torchvision"] = lambda: peer(peer_images)
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for name in DTYPES_OF_CPU:
        predictor = build_predictor(model, DTYPES[name])
        tasks[f"Predictor, {name}"] = lambda predict=predictor: predict([pixels] * batch_size)
    medians = {}
    for name, values in measure(tasks, repeats).items():
        medians[name] = statistics.median(values)
        print(
            f"batch {batch_size:2} {name:16} {1000 * medians[name]:7.1f} ms "
            f"({1000 * min(values):.1f} to {1000 * max(values):.1f}), "
            f"{batch_size / medians[name]:6.1f} images/s"
        )
    return medians


def build_predictor(model, dtype: torch.dtype) -> Predictor:
    """Make a Predictor that reads no files."""
    return Predictor(
        model,
        [str(label) for label in range(1, 81)],
        read_image=np.load,
        resize=Resize(model.image_size),
        normalize=lambda images, dtype: normalize_images(images, dtype=dtype),
        dtype=dtype,
    )


if __name__ == "__main__":
    raise SystemExit(main())
