#!/usr/bin/env python3
"""What the CPU forms of a network are worth, against the plain network in the same process.

    python benchmarks/cpu_forms.py [--batch-size 8] [--repeats 7]

mb2-ssd-lite with 81 classes at 300 px, channels-last, in turn: a pass through the network in
training in both directions, one image in inference, and the gradients of depthwise layers of stride
2 in bfloat16 (MobileNetV2's block 2, and 5x5 layers of MobileNetV3). Times are of the processor, on
one thread, so that other programs on the machine count little. Prints medians, and the median and
range of the ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.engine.cpu_memory import keep_freed_memory
from vision.nn.cpu.optimize import optimize_for_inference, optimize_for_training
from vision.nn.cpu.strided_depthwise import StridedDepthwise
from vision.ssd.models import build_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STRIDED = {  # kernel, channels, side of the input
    "MobileNetV2 block 2, 3x3": (3, 96, 150),
    "MobileNetV3 large block 4, 5x5": (5, 72, 75),
    "MobileNetV3 large block 13, 5x5": (5, 672, 19),
}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    for name, dtype in DTYPES.items():
        report(f"training, {name}", training_passes(dtype, args.batch_size), args.repeats)
    for name, dtype in DTYPES.items():
        report(f"inference, {name}", inference_passes(dtype), args.repeats)
    for name, (kernel, channels, side) in STRIDED.items():
        shape = args.batch_size, channels, side, side
        report(f"{name}, bfloat16", strided_gradients(kernel, shape), args.repeats)
    return 0


def training_passes(dtype: torch.dtype, batch_size: int) -> tuple[Callable, Callable]:
    """A pass in both directions of the plain network, and of its training form."""
    images = torch.randn(batch_size, 3, 300, 300).to(memory_format=torch.channels_last)
    passes = []
    for optimize in (lambda model: None, optimize_for_training):
        model = build().train()
        optimize(model)
        passes.append(lambda model=model: train_once(model, images, dtype))
    return tuple(passes)


def train_once(model: torch.nn.Module, images: Tensor, dtype: torch.dtype) -> None:
    """Time some training steps of one form."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        cls_logits, bbox_regression = model(images)
    (cls_logits.float().mean() + bbox_regression.float().mean()).backward()


def inference_passes(dtype: torch.dtype) -> tuple[Callable, Callable]:
    """Ten images one by one through the plain network, and through its inference form."""
    image = torch.randn(1, 3, 300, 300).to(dtype, memory_format=torch.channels_last)
    model = build().eval()
    folded = optimize_for_inference(model).to(dtype)  # folded before it is rounded
    networks = model.to(dtype), folded
    return tuple(
        torch.inference_mode()(lambda network=network: [network(image) for _ in range(10)])
        for network in networks
    )


def strided_gradients(kernel: int, shape: tuple[int, ...]) -> tuple[Callable, Callable]:
    """Both gradients as torch computes them, and as StridedDepthwise does."""
    channels = shape[1]
    x = torch.randn(shape, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=torch.bfloat16).requires_grad_()
    x.requires_grad_()
    outputs = (
        F.conv2d(x, weight, stride=2, padding=kernel // 2, groups=channels),
        StridedDepthwise.apply(x, weight),
    )
    grad = torch.randn_like(outputs[0])
    return tuple(
        lambda y=y: torch.autograd.grad(y, (x, weight), grad, retain_graph=True) for y in outputs
    )


def build() -> torch.nn.Module:
    """Build the network in one form."""
    torch.manual_seed(0)
    return build_model("mb2-ssd-lite", num_classes=81).to(memory_format=torch.channels_last)


def report(name: str, passes: tuple[Callable, Callable], repeats: int) -> None:
    """Time both in turn and print a line."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for one, spent in zip(passes, times, strict=True):
            start = time.process_time()
            one()
            if repeat:  # the first round warms up
                spent.append(1000 * (time.process_time() - start))
    plain, ours = map(statistics.median, times)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    print(
        f"{name:42} plain {plain:7.1f} ms, ours {ours:7.1f} ms, "
        f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
