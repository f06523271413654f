#!/usr/bin/env python3
"""Speed of training: the whole loop compared with the step alone, and with pytorch-ssd's loop.

    python benchmarks/training_loop.py --datasets coco-data [--steps 2] [--repeats 5] [--profile]

Measured in turn in one run, on the same JPEG files at 300 px: our step on a batch in memory; our
whole loop with loading and augmentation; the same with a full --cache ram; and, in a process with
torch's default settings, the step of "the family" (qfgaohao's pytorch-ssd and its forks: float32,
contiguous layout) on a batch in memory, its loop with two workers (see family_loop.py), and the
step of torchvision's ssdlite320_mobilenet_v3_large at 320 px. Between the measurements the workers
fill their queues; each measured step of a loop takes a batch, so the workers make another one.
Prints images/s with their range, and the ratios last; wanted: 0.95 of the step alone, and 3.3 times
the family's loop. --profile also prints the time of our step by operator, from torch.profiler.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

if __name__ == "__main__":  # not in the peers' process, which imports this file too
    os.environ["GOMP_SPINCOUNT"] = "20000"  # as train_ssd.py does; read with torch

import family_loop
import numpy as np
import torch
from peer_process import peers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from vision.args import default_workers
from vision.datasets.coco import CocoDetection
from vision.datasets.image_cache import build_image_cache
from vision.datasets.layouts.choose import open_split
from vision.datasets.layouts.layout import Source
from vision.datasets.loader import DetectionLoader
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.optim import Schedule, build_optimizer
from vision.engine.precision import choose_precision
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.nn.cpu.optimize import optimize_for_training
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model
from vision.transforms.presets import build_train_transform

CPU = torch.device("cpu")
PAUSE = 1.0  # seconds, in which workers fill their queues
FAMILY_STEP, FAMILY_LOOP = "the family's step", "the family's loop, 2 workers"
TORCHVISION = "torchvision's ssdlite320, step"
OUR_STEP, OUR_LOOP, OUR_CACHED_LOOP = "our step", "our loop", "our loop, --cache ram"
MAX_CACHED = 400  # images, all of which are decoded before the cached loop is measured


def build(num_classes: int) -> tuple[TrainingState, MultiBoxLoss]:
    """Make mb2-ssd-lite at 300 px with SGD, as train_ssd.py does."""
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=num_classes, image_size=(300, 300)).train()
    model.to(memory_format=torch.channels_last)
    optimize_for_training(model)
    optimizer = build_optimizer("sgd", model, lr=1e-3, weight_decay=5e-4)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, Schedule("none", 1), scaler)
    return state, MultiBoxLoss(model.priors_cxcywh, image_size=(300, 300))


def our_contenders(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Our step on the same batch again and again, and on the batches of our loader."""
    source = open_split(args.datasets, "train")
    transform = build_train_transform("ssd", image_size=(300, 300), mean=[127])
    dataset = CocoDetection([source], transform=transform)
    loader = DetectionLoader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, shuffle=True
    )
    batches = whole_batches(loader, args.batch_size, before_epoch=loader.set_position)
    resident = next(batches)
    state, loss_fn = build(len(dataset.categories) + 1)
    options = StepOptions(CPU, precision=choose_precision("auto", CPU))
    cached = whole_batches(warm_loader(source, args), args.batch_size)
    return {
        OUR_STEP: lambda: train_step(state, *resident, loss_fn, options=options),
        OUR_LOOP: lambda: train_step(state, *next(batches), loss_fn, options=options),
        OUR_CACHED_LOOP: lambda: train_step(state, *next(cached), loss_fn, options=options),
    }


def warm_loader(source: Source, args: argparse.Namespace) -> DetectionLoader:
    """Make our loader with --cache ram, after its first epoch, for a part of the images."""
    images = np.arange(min(MAX_CACHED, len(source.index)))
    transform = build_train_transform("ssd", image_size=(300, 300), mean=[127])
    dataset = CocoDetection([source], transform=transform, image_indices=images)
    dataset.cache = build_image_cache("ram", dataset.sizes, input_size=(300, 300), folder=".")
    for i in images:
        dataset[i]
    return DetectionLoader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, shuffle=True
    )


def peer_contenders(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """pytorch-ssd's step and loop, and torchvision's step."""
    source = open_split(args.datasets, "train")
    num_classes = len(source.index.categories) + 1
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=num_classes, image_size=(300, 300)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    loader = family_loop.build_loader(source, model.priors_cxcywh, batch_size=args.batch_size)
    batches = whole_batches(loader, args.batch_size)
    resident = next(batches)
    return {
        FAMILY_STEP: lambda: family_loop.family_step(model, optimizer, resident),
        FAMILY_LOOP: lambda: family_loop.family_step(model, optimizer, next(batches)),
        TORCHVISION: torchvision_step(num_classes, args.batch_size),
    }


def torchvision_step(num_classes: int, batch_size: int) -> Callable[[], None]:
    """Make the step of torchvision's SSDLite on random images with seven boxes each."""
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=4e-5)
    images = list(torch.rand(batch_size, 3, 320, 320))
    targets = [_draw_target(num_classes) for _ in images]

    def step() -> None:
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return step


def _draw_target(num_classes: int) -> dict[str, Tensor]:
    corner, size = 160 * torch.rand(2, 7, 2)
    boxes = torch.cat([corner, corner + size + 1], dim=1)
    return {"boxes": boxes, "labels": torch.randint(1, num_classes, (7,))}


def whole_batches(
    loader, batch_size: int, before_epoch: Callable[[int], None] = lambda epoch: None
) -> Iterator:
    """Yield batches, epoch after epoch, but no last batch of another size."""
    epoch = 0
    while True:
        before_epoch(epoch)
        yield from (batch for batch in loader if len(batch[0]) == batch_size)
        epoch += 1


def run(step: Callable[[], object], steps: int) -> float:
    """Take some steps and return the seconds."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start


def measure(
    contenders: dict[str, Callable[[], object]], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Measure the images/s of each in turn, so that other work on the machine affects all alike."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):
        for name, step in contenders.items():
            time.sleep(PAUSE)
            steps = 1 if name == TORCHVISION else args.steps
            spent = run(step, steps)
            if repeat:  # the first round warms up
                speeds[name].append(steps * args.batch_size / spent)
                print(f"{repeat}: {name} {speeds[name][-1]:.1f}", file=sys.stderr)
    return speeds


def ratio(name: str, above: list[float], below: list[float]) -> None:
    """Print the median and the range of the ratio over the repeats."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def print_profile(step: Callable[[], object], *, steps: int = 3) -> None:
    """Print the time of a step by operator."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        run(step, steps)
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print("share of our step, ms, calls, operator:")
    for event in events[:14]:
        share, milliseconds = event.self_cpu_time_total / total, event.self_cpu_time_total / 1000
        print(f"{share:7.1%} {milliseconds / steps:8.1f} {event.count // steps:5} {event.key}")


def build_parser() -> argparse.ArgumentParser:
    """The command line of this benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", required=True, metavar="ROOT", help="a COCO layout")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers(), help="of our loop")
    parser.add_argument("--profile", action="store_true", help="of our step, at the end")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure all in turn and print their speeds and ratios."""
    args = build_parser().parse_args(argv)
    os.environ.pop("GOMP_SPINCOUNT", None)  # the peers run as torch comes
    with peers(peer_contenders, args) as theirs:
        keep_freed_memory()  # as train_ssd.py does; the peers run with the C library's defaults
        ours = our_contenders(args)
        speeds = measure({**theirs, **ours}, args)
    print(
        f"batch {args.batch_size}, ours in {choose_precision('auto', CPU)} with {args.workers} "
        f"workers; {args.repeats} repeats of {args.steps} steps"
    )
    for name, values in speeds.items():
        middle = statistics.median(values)
        print(f"{name:32} {middle:5.1f} images/s ({min(values):.1f} to {max(values):.1f})")
    if args.profile:
        print_profile(ours[OUR_STEP])
    ratio("our step over torchvision's", speeds[OUR_STEP], speeds[TORCHVISION])
    ratio("our step over the family's step", speeds[OUR_STEP], speeds[FAMILY_STEP])
    ratio("our loop over our step", speeds[OUR_LOOP], speeds[OUR_STEP])
    ratio("our cached loop over our step", speeds[OUR_CACHED_LOOP], speeds[OUR_STEP])
    ratio("our cached loop over the family's", speeds[OUR_CACHED_LOOP], speeds[FAMILY_LOOP])
    ratio("our loop over the family's loop", speeds[OUR_LOOP], speeds[FAMILY_LOOP])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
