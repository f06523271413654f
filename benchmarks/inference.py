#!/usr/bin/env python3
"""Inference of mb2-ssd-lite on the CPU, one image and a batch of 16, compared with pytorch-ssd.

    python benchmarks/inference.py [--repeats 15] [--threads 2]

All with 81 classes at 300 px, in turn in one run; single images in groups of ten, as from a camera.
"The family's way" is that of qfgaohao's pytorch-ssd and its forks: float32, contiguous layout,
BatchNorm as layers. torchvision's ssdlite320 (MobileNetV3, 91 classes, 320 px) is measured with its
own post-processing. Both run in a process with torch's default settings. Ours is what Predictor
does in run_ssd_example.py: BatchNorm and ReLU6 folded, channels-last, freed memory kept, in float32
and in bf16; and the same in a program with glibc's default memory settings. "Predictor" is
everything from 640x480 arrays to detections.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from interleaved import measure
from peer_process import peers
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from vision.deploy.load_predictor import DTYPES, Resize
from vision.deploy.predictor import Predictor
from vision.engine.cpu_memory import keep_freed_memory
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ssd.models import build_model
from vision.transforms.normalize import normalize_images

DTYPES_OF_CPU = ("fp32", "bf16")
FAMILY, TORCHVISION = "the family's way", "torchvision's ssdlite320"
DEFAULT_MEMORY = "memory given back"


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    lines = []
    for batch_size in (1, 16):
        shared = batch_size, args.threads
        with peers(family_tasks, *shared) as theirs, peers(our_tasks, *shared, False) as default:
            tasks = {**theirs, **our_tasks(*shared, True)}
            tasks |= {f"{name}, {DEFAULT_MEMORY}": default[name] for name in DTYPES_OF_CPU}
            medians = report(
                batch_size, measure(tasks, args.repeats, calls=10 if batch_size == 1 else 1)
            )
        for note in ("", f", {DEFAULT_MEMORY}"):
            shares = [f"{medians[n + note] / medians[FAMILY]:.2f} ({n})" for n in DTYPES_OF_CPU]
            factors = [f"{medians[FAMILY] / medians[n + note]:.2f} ({n})" for n in DTYPES_OF_CPU]
            lines.append(
                f"batch {batch_size}{note}: {', '.join(shares)} of the family's time; "
                f"{', '.join(factors)} times as fast"
            )
    print("\n".join(lines))
    return 0


def report(batch_size: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    """Print a line for each task, and return the medians."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(
            f"batch {batch_size:2} {name:24} {1000 * medians[name]:7.1f} ms "
            f"({1000 * min(values):.1f} to {1000 * max(values):.1f}), "
            f"{batch_size / medians[name]:6.1f} images/s"
        )
    return medians


def family_tasks(batch_size: int, threads: int) -> dict[str, Callable[[], object]]:
    """The tasks of the peers."""
    torch.set_num_threads(threads)
    model = build_model("mb2-ssd-lite", num_classes=81).eval()
    peer = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    images = torch.randn(batch_size, 3, 300, 300)
    peer_images = list(torch.rand(batch_size, 3, 320, 320))
    tasks = {FAMILY: lambda: model(images), TORCHVISION: lambda: peer(peer_images)}
    return {name: torch.inference_mode()(task) for name, task in tasks.items()}


def our_tasks(batch_size: int, threads: int, keep: bool) -> dict[str, Callable[[], object]]:
    """The tasks of our network and of Predictor, in each number format."""
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    model = build_model("mb2-ssd-lite", num_classes=81).eval()
    images = torch.randn(batch_size, 3, 300, 300)
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    tasks: dict[str, Callable] = {}
    for name in DTYPES_OF_CPU:
        folded = optimize_for_inference(model).to(DTYPES[name], memory_format=torch.channels_last)
        inputs = images.to(DTYPES[name], memory_format=torch.channels_last)
        tasks[name] = torch.inference_mode()(lambda network=folded, x=inputs: network(x))
    for name in DTYPES_OF_CPU:
        predictor = build_predictor(model, DTYPES[name])
        tasks[f"Predictor, {name}"] = lambda predict=predictor: predict([pixels] * batch_size)
    return tasks


def build_predictor(model, dtype: torch.dtype) -> Predictor:
    """Make a Predictor without reading files."""
    return Predictor(
        model,
        [str(label) for label in range(1, 81)],
        read_image=np.load,
        resize=Resize(model.image_size),
        normalize=partial(normalize_images, **vars(model.network.normalization)),
        dtype=dtype,
    )


if __name__ == "__main__":
    raise SystemExit(main())
