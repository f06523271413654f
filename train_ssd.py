#!/usr/bin/env python3
"""Train an SSD detector on COCO, or on images of your own, and continue where a run stopped.

    ./train_ssd.py --datasets coco-data --base-net imagenet --checkpoint-folder runs/coco
    ./train_ssd.py --datasets finetune_dataset --dataset-type yolo --base-net mobilenet_v2.pth \\
        --epochs 20 --checkpoint-folder runs/cells
    ./train_ssd.py --resume runs/coco
    ./train_ssd.py --resume runs/coco --epochs 60 --workers 4
    torchrun --nproc_per_node=2 train_ssd.py --datasets coco-data --checkpoint-folder runs/coco
    ./train_ssd.py --datasets coco-data --dry-run       # look at one batch before the long run
    ./train_ssd.py --datasets coco-data --overfit 8     # can it learn 8 images?

Checkpoints, config.json, labels.txt and metrics.jsonl go to the checkpoint folder. Exit code 0:
done; 1: failed, in one line; 2: wrong usage; 128 + signal: stopped, saved, ready for --resume.
"""

from vision.installed import require

require("cv2", "msgspec", "numpy", "pycocotools", "torch", "torchvision", "tqdm", "yaml")

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

# Waiting threads of torch's leave their core to decoding after 0.5 ms, not 7. Read with torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from vision.args import parse_train_args
from vision.engine import distributed
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.machine_limits import explain
from vision.engine.metrics import MetricsLog
from vision.engine.profile import StepProfiler
from vision.engine.signals import Interrupted
from vision.engine.state import TrainingState
from vision.engine.train import fit
from vision.runs.checkpoint import epoch_path, has_checkpoints
from vision.runs.run_folder import CONFIG, METRICS, RunLock, write_config
from vision.runs.saver import NoSaver, RunSaver
from vision.training.build import Parts, build
from vision.training.dry_run import dry_run
from vision.training.overfit import TARGET_AP50, overfit
from vision.training.resume import (
    began_in_this_job,
    history_entry,
    log_rate_change,
    open_run,
    restore,
    return_to,
)

logger = logging.getLogger("train_ssd")


def main(argv: list[str] | None = None) -> int:
    """Train; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    args, given = parse_train_args(argv, description=__doc__)
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    try:
        with distributed.process_group():
            if not args.resume and distributed.on_main_process(
                partial(began_in_this_job, args.checkpoint_folder)
            ):
                args.resume = args.checkpoint_folder  # torchrun has started its processes again
            return resume(args, given) if args.resume else start(args)
    except distributed.MainProcessStopped:
        return 1
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        line = explain(error) or distributed.explain_lost(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1


def start(args: argparse.Namespace) -> int:
    """Begin a new run, or check that one would work."""
    if args.dry_run:
        return run_dry(build(args))
    if args.overfit:
        return run_overfit(build(args))
    run = Path(args.checkpoint_folder)
    distributed.on_main_process(partial(refuse_used_folder, run))
    parts = build(args)  # before the folder is made: what is wrong with the data leaves no trace

    def begin() -> None:
        run.mkdir(parents=True, exist_ok=True)
        held.enter_context(RunLock(run))
        refuse_used_folder(run)  # another process may have begun there in the meantime
        write_config(run, parts.config)

    with ExitStack() as held:
        distributed.on_main_process(begin)
        return run_training(args, run, parts)


def refuse_used_folder(run: Path) -> None:
    """Raise ValueError where a run is already, naming the process that trains in it."""
    if (run / CONFIG).exists() or has_checkpoints(run):
        with RunLock(run):
            raise ValueError(
                f"{run}: there is a run already; --resume {run}, or choose another folder"
            )


def resume(args: argparse.Namespace, given: set[str]) -> int:
    """Continue a run from its newest intact checkpoint, or from the one that was named."""
    with ExitStack() as held:
        run, named, point, args, changes = distributed.on_main_process(
            partial(open_run, args, given, held)
        )
        if point.epoch >= args.epochs:
            if distributed.is_main_process():
                if named is None:
                    return_to(run, point)
                print(
                    f"{run}: finished, {point.epoch} of {args.epochs} epochs are done. To train "
                    f"longer: train_ssd.py --resume {args.resume} --epochs {point.epoch + 10}"
                )
            return 0
        parts = build(args, config=point.config, has_checkpoint=point.checkpoint is not None)
        restore(parts.state, point, config=parts.config)
        entry = history_entry(point, parts.config, changes)
        if entry:
            parts.config["history"] = [*point.config["history"], entry]
        log_rate_change(parts.state, point, num_batches=parts.train_loader.num_batches)

        def go_on() -> None:
            return_to(run, point)
            write_config(run, parts.config)

        distributed.on_main_process(go_on)
        return run_training(args, run, parts)


def run_training(args: argparse.Namespace, run: Path, parts: Parts) -> int:
    """Train to the end, then say what came out."""
    state = parts.state
    saver = build_saver(args, run, parts) if distributed.is_main_process() else NoSaver(run)
    profiler = None
    if args.profile and distributed.is_main_process():
        profiler = StepProfiler(run, precision=parts.options.precision)

    def evaluate_epoch(state: TrainingState, check: Callable[[], None]) -> dict:
        epoch = state.epoch + 1
        is_due = args.eval_every and epoch % args.eval_every == 0
        if parts.measure is None or not (is_due or epoch == args.epochs):
            return {}
        result = parts.measure(state.evaluated_model, check)
        return distributed.on_main_process(lambda: result.as_record())

    try:
        fit(
            state,
            epochs=args.epochs,
            loader=parts.train_loader,
            loss_fn=parts.loss_fn,
            options=parts.options,
            evaluate_epoch=evaluate_epoch,
            saver=saver,
            profiler=profiler,
        )
    except (Interrupted, RuntimeError) as error:
        lost = isinstance(error, RuntimeError) and distributed.explain_lost(error)
        if distributed.is_main_process() and (lost or isinstance(error, Interrupted)):
            newest = saver.newest.name if saver.newest else "none written"
            cause = "the end of another process" if lost else error
            print(
                f"{run}: stopped by {cause} after step {state.step}, newest checkpoint {newest}; "
                f"to go on: train_ssd.py --resume {run}"
            )
        raise
    if not distributed.is_main_process():
        return 0
    last = epoch_path(run, state.epoch)
    if saver.newest != last:  # --on-save-error continue
        newest = saver.newest.name if saver.newest else "none of this process"
        raise OSError(f"{last} was not written; the newest checkpoint on disk is {newest}")
    best = state.best
    if best["epoch"]:
        print(f"{run}: best AP {best['AP']:.4f} in epoch {best['epoch']}, checkpoint_best.pt")
    print(f"{run}: {state.epoch} epochs done")
    return 0


def build_saver(args: argparse.Namespace, run: Path, parts: Parts) -> RunSaver:
    """Make what writes the run's metrics and checkpoints."""
    metrics = MetricsLog(
        run / METRICS, tensorboard=run / "tensorboard" if args.tensorboard else None
    )
    metrics.keep_until(parts.state.epoch)
    return RunSaver(
        run,
        metrics=metrics,
        config=parts.config,
        classes=parts.config["classes"],
        every_steps=args.checkpoint_every_steps,
        every_minutes=args.checkpoint_every_minutes,
        keep_last=args.keep_last,
        continue_on_error=args.on_save_error == "continue",
    )


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


if __name__ == "__main__":
    raise SystemExit(main())
