#!/usr/bin/env python3
"""Train an SSD detector on COCO, or on images of your own, and continue where a run stopped.

    ./train_ssd.py --datasets coco-data --base-net imagenet --checkpoint-folder runs/coco
    ./train_ssd.py --datasets finetune_dataset --dataset-type yolo --base-net mobilenet_v2.pth \\
        --epochs 20 --checkpoint-folder runs/cells
    ./train_ssd.py --resume runs/coco
    ./train_ssd.py --resume runs/coco --epochs 60 --workers 4
    ./train_ssd.py --datasets coco-data --dry-run       # look at one batch before the long run
    ./train_ssd.py --datasets coco-data --overfit 8     # can it learn 8 images?

Checkpoints, config.json, labels.txt and metrics.jsonl go to the checkpoint folder. Exit code 0:
done; 1: failed, in one line; 2: wrong usage; 128 + signal: stopped, saved, ready for --resume.
"""

import argparse
import logging
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision

import vision
from vision.args import parse_train_args
from vision.datasets.coco import CocoDetection
from vision.datasets.loader import DetectionLoader
from vision.engine.checkpoint import find_newest, list_checkpoints, read_checkpoint
from vision.engine.coco_boxes import ground_truth_from_index
from vision.engine.data import (
    Sources,
    check_classes,
    describe,
    images_with_boxes,
    open_coco,
    open_yolo,
)
from vision.engine.dry_run import dry_run
from vision.engine.ema import ModelEma
from vision.engine.evaluate import EvaluationResult, evaluate
from vision.engine.metrics import MetricsLog
from vision.engine.optim import Schedule, build_optimizer, freeze, parameter_groups
from vision.engine.overfit import TARGET_AP50, overfit
from vision.engine.precision import choose_device, choose_precision
from vision.engine.run_folder import (
    CONFIG,
    METRICS,
    RunLock,
    point_best_at,
    read_config,
    remove_leftovers,
    write_config,
)
from vision.engine.saver import RunSaver
from vision.engine.signals import Interrupted, Interruptible
from vision.engine.state import TrainingState
from vision.engine.train import StepOptions, fit
from vision.engine.weights import load_base_net, load_pretrained_ssd
from vision.saved_args import resume_arguments, saved_arguments
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model
from vision.ssd.ssd import SSD
from vision.transforms.normalize import PIXEL_MEAN
from vision.transforms.presets import build_eval_transform, build_train_transform

logger = logging.getLogger("train_ssd")
OVERFIT_STEPS = 300


def main(argv: list[str] | None = None) -> int:
    """Train; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    args, given = parse_train_args(argv, description=__doc__)
    try:
        return resume(args, given) if args.resume else start(args)
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def start(args: argparse.Namespace) -> int:
    """Begin a new run, or check that one would work."""
    if args.dry_run or args.overfit:
        with tempfile.TemporaryDirectory() as folder:
            parts = build(args, Path(folder))
            return run_dry(parts) if args.dry_run else run_overfit(parts)
    run = Path(args.checkpoint_folder)
    if (run / CONFIG).exists() or list_checkpoints(run):
        raise ValueError(f"{run}: there is a run already; --resume {run}, or choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    with RunLock(run):
        parts = build(args, run)
        write_config(run, parts.config)
        return run_training(args, run, parts)


def resume(args: argparse.Namespace, given: set[str]) -> int:
    """Continue a run from its newest intact checkpoint, or from the one that was named."""
    path = Path(args.resume)
    run = path.parent if path.is_file() else path
    config = read_config(run)
    args, changes = resume_arguments(config["arguments"], args, given)
    with RunLock(run):
        remove_leftovers(run)
        if path.is_file():
            checkpoint = read_checkpoint(path)
        else:
            path, checkpoint, skipped = find_newest(run)
            for line in skipped:
                logger.warning("passed over: %s", line)
        epoch = checkpoint["epoch"]
        logger.info("resuming %s at epoch %d, step %d", path.name, epoch + 1, checkpoint["step"])
        if epoch >= args.epochs:
            print(
                f"{run}: finished, {epoch} of {args.epochs} epochs are done. To train longer: "
                f"train_ssd.py --resume {run} --epochs {epoch + 10}"
            )
            return 0
        parts = build(args, run, config=config, checkpoint=checkpoint)
        if changes:
            for name, (old, new) in changes.items():
                logger.warning("%s: %s in this run until now, %s from here on", name, old, new)
            entry = {"epoch": epoch, "step": checkpoint["step"], "changes": changes}
            parts.config["history"] = [*config["history"], entry]
        write_config(run, parts.config)
        return run_training(args, run, parts)


@dataclass
class Parts:
    """What training, --dry-run and --overfit work with."""

    state: TrainingState
    train_loader: DetectionLoader
    loss_fn: MultiBoxLoss
    options: StepOptions
    measure: Callable[..., EvaluationResult] | None  # called with (model, check); None: no val
    config: dict

    @property
    def class_names(self) -> list[str]:
        return [item["name"] for item in self.config["classes"]]


def build(
    args: argparse.Namespace,
    run: Path,
    *,
    config: dict | None = None,
    checkpoint: dict | None = None,
) -> Parts:
    """Make data, network and optimizer from the arguments, and restore what a checkpoint holds."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    train_sources, val_sources = open_sources(args, run)
    categories = train_sources[0][0].categories
    classes = [asdict(category) for category in categories]
    check_classes(config["classes"] if config else classes, categories, where="--datasets")
    model = build_model(
        args.net,
        num_classes=len(classes) + 1,
        image_size=args.image_size,
        width_mult=args.mb2_width_mult,
        prior_sizes=args.prior_sizes,
    )
    args.image_size = model.image_size
    if checkpoint is None:
        load_initial_weights(model, args, [category.name for category in categories])
    model.to(device, memory_format=torch.channels_last)
    loss_fn = MultiBoxLoss(
        model.priors_cxcywh,
        image_size=model.image_size,
        iou_threshold=args.iou_threshold,
        neg_pos_ratio=args.neg_pos_ratio,
    )
    if args.overfit:
        val_sources = train_sources
    train_loader = build_train_loader(args, train_sources)
    state = build_state(args, model, steps_per_epoch=train_loader.sampler.num_batches)
    new_config = {
        "arguments": saved_arguments(args),
        "classes": config["classes"] if config else classes,
        "versions": versions(),
        "history": config["history"] if config else [],
    }
    if checkpoint:
        state.load_state_dict(checkpoint)
    logger.info(
        "%s at %dx%d, %d classes, on %s in %s, %d threads and %d workers",
        args.net, *model.image_size, len(classes), device, precision,
        torch.get_num_threads(), args.workers,
    )  # fmt: skip
    options = StepOptions(
        device=device,
        precision=precision,
        clip_grad_norm=args.clip_grad_norm,
        skip_nonfinite=args.on_nonfinite == "skip",
    )
    measure = build_measure(args, val_sources, loss_fn, device) if val_sources else None
    return Parts(state, train_loader, loss_fn, options, measure, new_config)


def open_sources(args: argparse.Namespace, run: Path) -> tuple[Sources, Sources]:
    """Read the annotations of the train and val splits; the latter may be empty."""
    val_roots = [args.validation_dataset] if args.validation_dataset else args.datasets
    if args.dataset_type == "yolo":
        lists = {"train": args.train_split, "val": args.val_split}
        sources = open_yolo(
            args.datasets,
            annotations=run / "annotations",
            split_lists=lists,
            strict_labels=args.strict_labels,
        )
        train_sources, val_sources = sources.get("train"), sources.get("val", [])
        if not train_sources:
            raise ValueError(f"{args.datasets[0]}: no train split there")
    else:
        train_sources = open_coco(args.datasets, "train")
        val_sources = open_coco(val_roots, "val")
    for split, sources in (("train", train_sources), ("val", val_sources)):
        for line in describe(split, sources) if sources else [f"no {split} split: no AP, no best"]:
            logger.info(line)
    if val_sources:
        expected = [asdict(category) for category in train_sources[0][0].categories]
        check_classes(expected, val_sources[0][0].categories, where="the val split")
    return train_sources, val_sources


def load_initial_weights(model: SSD, args: argparse.Namespace, class_names: list[str]) -> None:
    """Start from a backbone or a detector, and freeze what is to stay."""
    if args.pretrained_ssd:
        report = load_pretrained_ssd(model, args.pretrained_ssd, class_names=class_names)
        logger.info("%s: %s", args.pretrained_ssd, report)
    elif args.base_net != "none":
        logger.info("%s: %s", args.base_net, load_base_net(model, args.base_net))


def build_train_loader(args: argparse.Namespace, sources: Sources) -> DetectionLoader:
    """Make the training batches; for --overfit, of the first images with boxes, as they are."""
    augmentation = "none" if args.overfit else args.augmentation
    transform = build_train_transform(augmentation, image_size=args.image_size, mean=PIXEL_MEAN)
    chosen = images_with_boxes(sources, args.overfit) if args.overfit else None
    dataset = CocoDetection(sources, transform=transform, seed=args.seed, image_indices=chosen)
    if len(dataset) < 2:
        raise ValueError(f"--datasets: {len(dataset)} training images; at least 2 are needed")
    return DetectionLoader(
        dataset,
        batch_size=min(args.batch_size, len(dataset)),
        num_workers=args.workers,
        seed=args.seed,
        shuffle=True,
    )


def build_measure(
    args: argparse.Namespace, sources: Sources, loss_fn: MultiBoxLoss, device: torch.device
) -> Callable[..., EvaluationResult]:
    """Make the function that measures a model on the val split."""
    chosen = images_with_boxes(sources, args.overfit) if args.overfit else None
    dataset = CocoDetection(
        sources, transform=build_eval_transform(args.image_size), image_indices=chosen
    )
    loader = DetectionLoader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, shuffle=False
    )
    ground_truth = ground_truth_from_index([index for index, _ in sources], chosen)
    names = [category.name for category in dataset.categories]

    def measure(model: torch.nn.Module, check: Callable[[], None]) -> EvaluationResult:
        return evaluate(
            model,
            Interruptible(loader, check),
            ground_truth=ground_truth,
            class_names=names,
            device=device,
            loss_fn=loss_fn,
        )

    return measure


def build_state(args: argparse.Namespace, model: SSD, *, steps_per_epoch: int) -> TrainingState:
    """Make the optimizer, the schedule and the rest of a fresh state."""
    freeze(model, base_net=args.freeze_base_net, all_but_heads=args.freeze_net)
    groups = parameter_groups(
        model, lr=args.lr, base_net_lr=args.base_net_lr, extra_layers_lr=args.extra_layers_lr
    )
    optimizer = build_optimizer(
        args.optimizer, groups, momentum=args.momentum, weight_decay=args.weight_decay
    )
    total_steps = OVERFIT_STEPS if args.overfit else args.epochs * steps_per_epoch
    schedule = Schedule(
        args.scheduler,
        total_steps=total_steps,
        warmup_steps=min(round(args.warmup_epochs * steps_per_epoch), total_steps // 2),
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in args.milestones),
        gamma=args.gamma,
    )
    device = next(model.parameters()).device
    scaler = torch.amp.GradScaler(
        device.type, enabled=choose_precision(args.precision, device) == "fp16"
    )
    ema = ModelEma(model, decay=args.ema) if args.ema else None
    return TrainingState(model, optimizer, schedule, scaler, ema)


def run_training(args: argparse.Namespace, run: Path, parts: Parts) -> int:
    """Train to the end, then say what came out."""
    state = parts.state
    metrics = MetricsLog(
        run / METRICS, tensorboard=run / "tensorboard" if args.tensorboard else None
    )
    metrics.keep_until(state.epoch)
    point_best_at(run, state.best["epoch"])
    saver = RunSaver(
        run,
        metrics=metrics,
        config=parts.config,
        classes=parts.config["classes"],
        every_steps=args.checkpoint_every_steps,
        every_minutes=args.checkpoint_every_minutes,
        keep_last=args.keep_last,
        continue_on_error=args.on_save_error == "continue",
    )

    def evaluate_epoch(state: TrainingState, check: Callable[[], None]) -> dict:
        epoch = state.epoch + 1
        is_due = args.eval_every and epoch % args.eval_every == 0
        if parts.measure is None or not (is_due or epoch == args.epochs):
            return {}
        return parts.measure(state.evaluated_model, check).as_record()

    try:
        fit(
            state,
            epochs=args.epochs,
            loader=parts.train_loader,
            loss_fn=parts.loss_fn,
            options=parts.options,
            evaluate_epoch=evaluate_epoch,
            saver=saver,
        )
    except Interrupted as interrupted:
        print(f"{interrupted}: saved at step {state.step}; continue with: --resume {run}")
        raise
    best = state.best
    if best["epoch"]:
        print(f"{run}: best AP {best['AP']:.4f} in epoch {best['epoch']}, checkpoint_best.pt")
    print(f"{run}: {state.epoch} epochs done")
    return 0


def run_dry(parts: Parts) -> int:
    """Go through one batch and print what was seen."""
    lines = dry_run(
        parts.state,
        parts.train_loader,
        parts.loss_fn,
        options=parts.options,
        class_names=parts.class_names,
        picture=Path("dry_run.jpg"),
    )
    print("\n".join(lines))
    return 0


def run_overfit(parts: Parts) -> int:
    """Learn a few images by heart and print the verdict; exit code 1 if they were not learned."""
    result = overfit(
        parts.state,
        parts.train_loader,
        parts.loss_fn,
        options=parts.options,
        measure=partial(parts.measure, check=lambda: None),
        max_steps=OVERFIT_STEPS,
    )
    count = len(parts.train_loader.dataset)
    passed = result.ap50 > TARGET_AP50
    print(
        f"--overfit {count}: AP50 {result.ap50:.3f} on the images trained on "
        f"(perfect predictions: {result.ceiling_ap50:.3f}): " + ("passed" if passed else "failed")
    )
    for line in result.suspects:
        print(f"  {line}")
    return 0 if passed else 1


def versions() -> dict[str, str]:
    """Return what a run was made with."""
    return {
        "toolkit": vision.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
