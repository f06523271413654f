#!/usr/bin/env python3
"""Speed of training: the whole loop against the bare step, and against the family's way.

    python benchmarks/training_loop.py --datasets coco-data [--steps 8] [--repeats 5]

In one run and interleaved: the step as the family makes it (float32, contiguous layout, images
already in memory: more than its loop can reach), ours on a batch in memory, and our whole loop from
JPEG files with workers and augmentation. Prints images/s, the spread, and the ratios last.
"""

import argparse
import statistics
import time

import torch

from vision.args import default_workers
from vision.datasets.coco import CocoDetection
from vision.datasets.loader import DetectionLoader
from vision.engine.data import open_coco
from vision.engine.optim import Schedule, build_optimizer, parameter_groups
from vision.engine.precision import choose_precision
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model
from vision.transforms.normalize import PIXEL_MEAN
from vision.transforms.presets import build_train_transform

CPU = torch.device("cpu")


def build(num_classes: int, *, channels_last: bool) -> tuple[TrainingState, MultiBoxLoss]:
    """Make mb2-ssd-lite at 300 px with SGD."""
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=num_classes, image_size=(300, 300)).train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    groups = parameter_groups(model, lr=1e-3, base_net_lr=None, extra_layers_lr=None)
    optimizer = build_optimizer("sgd", groups, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, Schedule("none", 1), scaler)
    return state, MultiBoxLoss(model.priors_cxcywh, image_size=(300, 300))


def family_step(state: TrainingState, loss_fn: MultiBoxLoss, images, targets) -> None:
    """Step in float32 and contiguous layout, as the family's train_ssd.py does."""
    cls_logits, bbox_regression = state.model(images)
    state.optimizer.zero_grad()
    loss_fn(cls_logits, bbox_regression, targets)["loss"].backward()
    state.optimizer.step()


def build_parser() -> argparse.ArgumentParser:
    """The command line of this benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", required=True, metavar="ROOT", help="a COCO layout")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers())
    return parser


def main() -> int:
    """Measure the three in turn and print their speeds and ratios."""
    args = build_parser().parse_args()
    sources = open_coco([args.datasets], "train")
    transform = build_train_transform("ssd", image_size=(300, 300), mean=PIXEL_MEAN)
    dataset = CocoDetection(sources, transform=transform)
    loader = DetectionLoader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, shuffle=True
    )
    batches = iter(loader)
    images, targets = next(batches)
    num_classes = len(dataset.categories) + 1
    ours, loss_fn = build(num_classes, channels_last=True)
    family, _ = build(num_classes, channels_last=False)
    options = StepOptions(CPU, precision=choose_precision("auto", CPU))
    contiguous = ((images.float() - 127) / 128).contiguous()

    def next_batch():
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            loader.set_position(loader.sampler.epoch + 1)
            batches = iter(loader)
            batch = next(batches)
        return batch

    contenders = {
        "family's step, fp32 contiguous": lambda: family_step(family, loss_fn, contiguous, targets),
        f"our step, {options.precision} channels-last": lambda: train_step(
            ours, images, targets, loss_fn, options=options
        ),
        f"our loop from files, {args.workers} workers": lambda: train_step(
            ours, *next_batch(), loss_fn, options=options
        ),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):
        for name, step in contenders.items():
            start = time.perf_counter()
            for _ in range(args.steps):
                step()
            if repeat:  # the first round warms up
                speed = args.steps * args.batch_size / (time.perf_counter() - start)
                speeds[name].append(speed)
    for name, values in speeds.items():
        print(
            f"{name}: {statistics.median(values):.1f} images/s "
            f"({min(values):.1f} to {max(values):.1f})"
        )
    family_speed, step_speed, loop_speed = map(statistics.median, speeds.values())
    print(f"loop over bare step: {loop_speed / step_speed:.2f}")
    print(f"loop over the family's step: {loop_speed / family_speed:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
