"""Builds what a training run is made of, each part from the arguments."""

import logging
import sys
from itertools import cycle
from pathlib import Path

import torch

from vision.args import TrainArguments
from vision.data_flags import reading_options
from vision.datasets.choose_views import choose_views
from vision.datasets.coco import CocoDetection
from vision.datasets.image_cache import build_image_cache
from vision.datasets.loader import DetectionLoader
from vision.engine import distributed
from vision.engine.ema import ModelEma
from vision.engine.loggers import open_loggers
from vision.engine.metrics import MetricsLog
from vision.engine.optim import Schedule, build_optimizer, freeze
from vision.engine.precision import choose_device, choose_precision
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions
from vision.evaluation.coco_boxes import ground_truth_from_index
from vision.evaluation.validator import Validator
from vision.nn.cpu.optimize import optimize_for_training
from vision.nn.sync_batch_norm import synchronize_batch_norm
from vision.ops.tiles import whole_size
from vision.report.run_report import RunReport
from vision.runs.run_folder import METRICS
from vision.runs.saver import NoSaver, RunSaver
from vision.runs.weights import load_base_net, load_pretrained_ssd
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model
from vision.ssd.network import Normalization
from vision.ssd.ssd import SSD
from vision.training.data import (
    DataSplit,
    TrainingData,
    check_classes,
    check_same_for_all,
    evaluation_loader,
    open_sources,
)
from vision.training.priors import choose_priors
from vision.training.resume import RunStart
from vision.transforms.presets import build_train_transform

logger = logging.getLogger(__name__)
MAX_SENSIBLE_ADAM_LR = 0.008


def prepare_machine(args: TrainArguments) -> StepOptions:
    """Set threads and the seed, and choose the device and the number format of the steps.

    Raises:
        ValueError: a device or a number of processes that cannot work; names the flag.
    """
    num_processes = distributed.world_size()
    if num_processes > 1 and (args.dry_run or args.overfit):
        raise ValueError("--dry-run and --overfit are for one process; start them without torchrun")
    if args.batch_size < 2 * num_processes:
        raise ValueError(
            f"--batch-size {args.batch_size} over {num_processes} processes leaves some with less "
            f"than 2 images, and BatchNorm needs 2: use {2 * num_processes} or more"
        )
    distributed.set_threads(args.threads)
    torch.manual_seed(args.seed)
    device = choose_device(args.device)
    return StepOptions(
        device=device,
        precision=choose_precision(args.precision, device),
        clip_grad_norm=args.clip_grad_norm,
        skip_nonfinite=args.on_nonfinite == "skip",
    )


def open_data(args: TrainArguments, *, classes: list[dict] | None = None) -> TrainingData:
    """Read the annotations of the train and val splits.

    Args:
        args: of the run.
        classes: of a run that is resumed, which those of the data must be.

    Raises:
        ValueError: the data cannot be trained on, or are not the same in all processes.
    """
    data = open_sources(
        args.datasets or (),
        layout=args.dataset_type,
        validation_dataset=args.validation_dataset,
        train_split=args.train_split,
        val_split=args.val_split,
        # One folder of images may be for all annotation files.
        train_pairs=list(zip(args.train_json or (), cycle(args.train_images or ()), strict=False)),
        val_pairs=list(zip(args.val_json or (), cycle(args.val_images or ()), strict=False)),
        options=reading_options(args),
        balance_seed=args.seed if args.balance_data else None,
    )
    if classes is not None:
        check_classes(classes, data.train.categories, where="--datasets")
    if distributed.world_size() > 1:
        check_same_for_all([data.train, data.val])
    return data


def build_network(
    args: TrainArguments,
    data: TrainingData,
    *,
    options: StepOptions,
    resumed: RunStart | None = None,
) -> SSD:
    """Build the network on its device, with its initial weights.

    Args:
        args: of the run.
        data: says the classes; the priors may be fitted to its boxes.
        options: say the device; their number format is logged.
        resumed: a run that goes on keeps its priors and normalisation, and gets the weights of
            its checkpoint later.
    """
    class_names = data.train.class_names
    saved = resumed and resumed.config
    if saved and resumed.changes.keys() & {"net", "priors", "prior_sizes"}:
        saved = None
    model = build_model(
        args.net,
        num_classes=len(class_names) + 1,
        image_size=args.image_size,
        width_mult=args.mb2_width_mult,
        prior_sizes=args.prior_sizes,
        saved=saved,
        resize=args.resize,
        tiles=args.tiles,
        box_voting=args.box_voting,
    )
    if not saved:
        choose_priors(args, data.train, model)
    has_checkpoint = resumed is not None and resumed.checkpoint is not None
    if args.pretrained_ssd and not has_checkpoint:
        report = load_pretrained_ssd(model, args.pretrained_ssd, class_names=class_names)
        logger.info("%s: %s", args.pretrained_ssd, report)
    elif args.base_net != "none" and not has_checkpoint:
        logger.info("%s: %s", args.base_net, load_base_net(model, args.base_net))
    if args.freeze_base_net or args.freeze_net:
        freeze(model, all_but_heads=args.freeze_net)
    model.to(options.device, memory_format=torch.channels_last)
    optimize_for_training(model)
    if args.sync_bn and distributed.world_size() > 1:
        synchronize_batch_norm(model)
    logger.info(
        "%s at %dx%d, %d classes, on %s in %s; processes: %d, threads: %d, workers: %d",
        args.net, *model.image_size, len(class_names), options.device, options.precision,
        distributed.world_size(), torch.get_num_threads(), args.workers,
    )  # fmt: skip
    return model


def build_loss(args: TrainArguments, model: SSD) -> MultiBoxLoss:
    """Make the loss of the network's priors."""
    return MultiBoxLoss(
        model.priors_cxcywh,
        image_size=model.image_size,
        iou_threshold=args.iou_threshold,
        neg_pos_ratio=args.neg_pos_ratio,
    )


def build_train_loader(
    args: TrainArguments,
    split: DataSplit,
    *,
    normalization: Normalization,
    cache_folder: Path | None = None,
) -> DetectionLoader:
    """Make the augmented training batches.

    Args:
        args: of the run.
        split: the images.
        normalization: of the network; augmentation fills with its mean.
        cache_folder: where --cache disk keeps decoded images; None: no cache.
    """
    if args.resize == "point" and args.cache != "none":
        raise ValueError(
            "--resize point takes pixels of whole images, and --cache shrinks them: leave it out"
        )
    transform = build_train_transform(
        args.augmentation,
        image_size=args.image_size,
        mean=normalization.mean,
        resize=args.resize,
    )
    dataset = CocoDetection(
        split.sources,
        transform=transform,
        seed=args.seed,
        tiles=args.tiles,
        views=choose_views(split.indices, args.tiles, seed=args.seed) if args.tiles > 1 else None,
    )
    if len(dataset) < 2:
        raise ValueError(f"--datasets: {len(dataset)} training images; at least 2 are needed")
    if args.cache != "none" and cache_folder is not None:
        dataset.cache = build_image_cache(
            args.cache,
            dataset.sizes,
            input_size=whole_size(args.image_size, args.tiles),
            folder=cache_folder,
        )
    return DetectionLoader(
        dataset,
        batch_size=min(args.batch_size, len(dataset)),
        num_workers=args.workers,
        seed=args.seed,
        shuffle=True,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def build_state(
    args: TrainArguments,
    model: SSD,
    *,
    options: StepOptions,
    steps_per_epoch: int,
    total_steps: int,
) -> TrainingState:
    """Make the optimizer, the schedule and the rest of a fresh state."""
    if args.optimizer != "sgd" and args.lr > MAX_SENSIBLE_ADAM_LR:
        logger.warning(
            "--lr %g is a rate for SGD: add --optimizer sgd, or lower it for %s",
            args.lr, args.optimizer,
        )  # fmt: skip
    optimizer = build_optimizer(
        args.optimizer,
        model,
        lr=args.lr,
        base_net_lr=args.base_net_lr,
        extra_layers_lr=args.extra_layers_lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
    )
    schedule = build_schedule(args, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    scaler = torch.amp.GradScaler(options.device.type, enabled=options.precision == "fp16")
    ema = ModelEma(model, decay=args.ema) if args.ema else None
    return TrainingState(model, optimizer, schedule, scaler, ema)


def build_schedule(args: TrainArguments, *, steps_per_epoch: int, total_steps: int) -> Schedule:
    """Make the learning-rate schedule."""
    return Schedule(
        args.scheduler,
        total_steps=total_steps,
        warmup_steps=min(round(args.warmup_epochs * steps_per_epoch), total_steps // 2),
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in args.milestones),
        gamma=args.gamma,
    )


def build_validator(
    args: TrainArguments,
    split: DataSplit,
    loss_fn: MultiBoxLoss,
    *,
    device: torch.device,
    num_images: int | None = None,
) -> Validator | None:
    """Make what measures a model on a split; None where the split is empty.

    Args:
        args: of the run.
        split: the images.
        loss_fn: of the run.
        device: of the model.
        num_images: the first so many with boxes; None: all.

    Raises:
        ValueError: --patience without a val split.
    """
    if not len(split):
        if args.patience:
            raise ValueError(f"--patience {args.patience} counts validations: give a val split")
        return None
    chosen = None if num_images is None else split.images_with_boxes(num_images)
    loader = evaluation_loader(
        split.sources,
        image_size=args.image_size,
        resize=args.resize,
        tiles=args.tiles,
        batch_size=args.batch_size,
        num_workers=args.workers,
        image_indices=chosen,
    )
    return Validator(
        loader,
        ground_truth=ground_truth_from_index(split.indices, chosen),
        class_names=split.class_names,
        loss_fn=loss_fn,
        device=device,
        every=args.eval_every,
        min_precision=args.min_precision,
    )


def build_report(
    start: RunStart,
    data: TrainingData,
    model: SSD,
    validator: Validator | None,
    saver: RunSaver | NoSaver,
) -> RunReport | None:
    """Make what writes report.html, in the main process; None without a val split."""
    args = start.args
    if not args.report or validator is None or not distributed.is_main_process():
        return None
    return RunReport(
        run=start.folder,
        model=model,
        ground_truth=validator.ground_truth,
        class_names=data.train.class_names,
        sources=data.val.sources,
        train_sources=data.train.sources,
        dataset=data.val_place,
        postprocessing=model.network.postprocessing,
        dataset_flags=data.val_flags,
        command=["./train_ssd.py", *sys.argv[1:]],
        loggers=saver.metrics.loggers,
    )


def build_saver(start: RunStart, config: dict, state: TrainingState) -> RunSaver | NoSaver:
    """Make what writes the run's metrics and checkpoints; the main process writes."""
    if not distributed.is_main_process():
        return NoSaver(start.folder)
    args, folder = start.args, start.folder
    names = (*args.logger, "tensorboard") if args.tensorboard else args.logger
    loggers = None
    if names:
        loggers = open_loggers(names, folder, config["arguments"], first_epoch=state.epoch + 1)
    metrics = MetricsLog(folder / METRICS, loggers=loggers)
    if start.config:
        metrics.keep_until(state.epoch)
    return RunSaver(
        folder,
        metrics=metrics,
        config=config,
        classes=config["classes"],
        every_steps=args.checkpoint_every_steps,
        every_minutes=args.checkpoint_every_minutes,
        keep_last=args.keep_last,
        continue_on_error=args.on_save_error == "continue",
    )
