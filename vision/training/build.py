"""What training is made of, built from the arguments: data, network, optimizer, measurement."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from vision.datasets.coco import CocoDetection
from vision.datasets.image_cache import build_image_cache
from vision.datasets.loader import DetectionLoader
from vision.engine import distributed
from vision.engine.cpu_memory import give_back_freed_memory
from vision.engine.ema import ModelEma
from vision.engine.environment import machine, versions
from vision.engine.optim import Schedule, build_optimizer, freeze, parameter_groups
from vision.engine.precision import choose_device, choose_precision
from vision.engine.signals import StoppableLoader
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions
from vision.evaluation.coco_boxes import ground_truth_from_index
from vision.evaluation.evaluate import EvaluationResult, evaluate
from vision.nn.cpu.fold import fold_batch_norm
from vision.nn.sync_batch_norm import synchronize_batch_norm
from vision.runs.weights import load_base_net, load_pretrained_ssd
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model
from vision.ssd.ssd import SSD
from vision.training.data import (
    Sources,
    check_classes,
    fingerprint,
    images_with_boxes,
    shared_loader,
)
from vision.training.overfit import MAX_STEPS as OVERFIT_STEPS
from vision.training.saved_args import saved_arguments
from vision.training.sources import open_sources
from vision.transforms.normalize import PIXEL_MEAN
from vision.transforms.presets import build_eval_transform, build_train_transform

logger = logging.getLogger(__name__)
MAX_SENSIBLE_ADAM_LR = 0.008


@dataclass
class Parts:
    """What training, --dry-run and --overfit work with."""

    state: TrainingState
    train_loader: DetectionLoader
    loss_fn: MultiBoxLoss
    options: StepOptions
    measure: Callable[..., EvaluationResult | None] | None  # of (model, check); None: no val
    config: dict

    @property
    def class_names(self) -> list[str]:
        return [item["name"] for item in self.config["classes"]]


def build(
    args: argparse.Namespace, *, config: dict | None = None, has_checkpoint: bool = False
) -> Parts:
    """Make data, network and optimizer from the arguments.

    Args:
        args: of the run.
        config: of a run that is resumed; its classes are those of the data.
        has_checkpoint: weights will be restored, so none are read.
    """
    check_processes(args)
    distributed.set_threads(args.threads)
    torch.manual_seed(args.seed)
    device = choose_device(args.device, local_rank=distributed.local_rank())
    precision = choose_precision(args.precision, device)
    if args.overfit and args.precision == "auto":
        precision = "fp32"  # BatchNorm over a few images, on 1x1 maps, blows up bf16's rounding
    train_sources, val_sources = open_sources(args)
    categories = train_sources[0][0].categories
    classes = [asdict(category) for category in categories]
    check_classes(config["classes"] if config else classes, categories, where="--datasets")
    names = [category.name for category in categories]
    model = build_network(args, names, has_checkpoint=has_checkpoint)
    args.image_size = model.image_size
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
        "machine": machine(device, precision),
        "data": {"train": fingerprint(train_sources), "val": fingerprint(val_sources)},
        "history": config["history"] if config else [],
        "job": distributed.on_main_process(distributed.job_id),
    }
    logger.info(
        "%s at %dx%d, %d classes, on %s in %s, %d processes of %d threads and %d workers",
        args.net, *model.image_size, len(classes), device, precision,
        distributed.world_size(), torch.get_num_threads(), args.workers,
    )  # fmt: skip
    options = StepOptions(
        device=device,
        precision=precision,
        clip_grad_norm=args.clip_grad_norm,
        skip_nonfinite=args.on_nonfinite == "skip",
    )
    measure = build_measure(args, val_sources, loss_fn, device) if val_sources else None
    return Parts(state, train_loader, loss_fn, options, measure, new_config)


def check_processes(args: argparse.Namespace) -> None:
    """Refuse what several processes cannot do.

    Raises:
        ValueError: names the flag.
    """
    num_processes = distributed.world_size()
    if num_processes > 1 and (args.dry_run or args.overfit):
        raise ValueError("--dry-run and --overfit are for one process; start them without torchrun")
    if args.batch_size < 2 * num_processes:
        raise ValueError(
            f"--batch-size {args.batch_size} over {num_processes} processes leaves some with less "
            f"than 2 images, and BatchNorm needs 2: use {2 * num_processes} or more"
        )


def build_network(args: argparse.Namespace, class_names: list[str], *, has_checkpoint: bool) -> SSD:
    """Build the network with its initial weights, on the CPU."""
    model = build_model(
        args.net,
        num_classes=len(class_names) + 1,
        image_size=args.image_size,
        width_mult=args.mb2_width_mult,
        prior_sizes=args.prior_sizes,
    )
    if not has_checkpoint:
        load_initial_weights(model, args, class_names)
    return model


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
    if args.cache != "none" and not args.overfit and not args.dry_run:
        dataset.cache = build_image_cache(
            args.cache,
            dataset.sizes,
            input_size=args.image_size,
            folder=args.resume or args.checkpoint_folder,
        )
    return shared_loader(
        dataset,
        batch_size=min(args.batch_size, len(dataset)),
        num_workers=args.workers,
        seed=args.seed,
        shuffle=True,
    )


def build_measure(
    args: argparse.Namespace, sources: Sources, loss_fn: MultiBoxLoss, device: torch.device
) -> Callable[..., EvaluationResult | None]:
    """Make the function that measures a model on the val split, for the first process."""
    chosen = images_with_boxes(sources, args.overfit) if args.overfit else None
    dataset = CocoDetection(
        sources, transform=build_eval_transform(args.image_size), image_indices=chosen
    )
    loader = shared_loader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, shuffle=False
    )
    ground_truth = ground_truth_from_index([index for index, _ in sources], chosen)
    names = [category.name for category in dataset.categories]

    def measure(model: torch.nn.Module, check: Callable[[], None]) -> EvaluationResult | None:
        """Validate, calling `check` before each batch."""
        if device.type == "cpu":
            give_back_freed_memory()
        return evaluate(
            fold_batch_norm(model),
            StoppableLoader(loader, check),
            ground_truth=ground_truth,
            class_names=names,
            device=device,
            loss_fn=loss_fn,
        )

    return measure


def build_state(args: argparse.Namespace, model: SSD, *, steps_per_epoch: int) -> TrainingState:
    """Make the optimizer, the schedule and the rest of a fresh state."""
    if args.optimizer != "sgd" and args.lr > MAX_SENSIBLE_ADAM_LR:
        logger.warning(
            "--lr %g is a rate for SGD: add --optimizer sgd, or lower it for %s",
            args.lr, args.optimizer,
        )  # fmt: skip
    freeze(model, base_net=args.freeze_base_net, all_but_heads=args.freeze_net)
    if args.sync_bn and distributed.world_size() > 1:
        synchronize_batch_norm(model)
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
