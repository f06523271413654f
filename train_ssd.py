#!/usr/bin/env python3
"""Train an SSD detector on COCO, or on images of your own, and continue where a run stopped.

    ./train_ssd.py --datasets coco-data --base-net imagenet --checkpoint-folder runs/coco
    ./train_ssd.py --datasets finetune_dataset --base-net mobilenet_v2.pth --epochs 20 \\
        --checkpoint-folder runs/cells
    ./train_ssd.py --resume runs/coco
    ./train_ssd.py --resume runs/coco --epochs 60 --workers 4
    torchrun --nproc_per_node=2 train_ssd.py --datasets coco-data --checkpoint-folder runs/coco
    ./train_ssd.py --datasets coco-data --dry-run       # look at one batch before the long run
    ./train_ssd.py --datasets coco-data --overfit 8     # can it learn 8 images?

Checkpoints, config.json, labels.txt, metrics.jsonl and report.html go to the checkpoint folder.
Exit code 0: done, or saved at --max-hours; 1: failed, in one line; 2: wrong usage; 128 + signal:
stopped, saved, ready for --resume.
"""

from vision.installed import require

require("cv2", "msgspec", "numpy", "torch", "torchvision", "tqdm", "yaml")

import math
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

# Waiting threads of torch's leave their core to decoding after 0.5 ms, not 7. Read with torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from vision.args import TrainArguments, parse_train_args, recipe_flags
from vision.command_line import run_script
from vision.engine import distributed
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.machine_limits import explain
from vision.engine.profile import StepProfiler
from vision.engine.signals import Interrupted
from vision.engine.state import TrainingState
from vision.engine.train import fit
from vision.files.printable import printable
from vision.ops.tiles import num_views
from vision.report.run_report import RunReport
from vision.runs.checkpoint import epoch_path, step_path
from vision.runs.saver import NoSaver, RunSaver
from vision.training.build import (
    build_loss,
    build_network,
    build_report,
    build_saver,
    build_state,
    build_train_loader,
    build_validator,
    open_data,
    prepare_machine,
)
from vision.training.describe import describe_run
from vision.training.dry_run import dry_run
from vision.training.length import choose_length, default_epochs
from vision.training.overfit import TARGET_AP50, overfit
from vision.training.resume import RunStart, begin, check_same_flags, open_run, restore, return_to


def main(argv: list[str] | None = None) -> int:
    """Train, or look at what training would do; return the exit code."""
    args, given = parse_train_args(argv, description=__doc__)
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    work = partial(look, args) if args.dry_run or args.overfit else partial(train, args, given)
    return run_script(work, explain=explain)


def train(args: TrainArguments, given: set[str]) -> int:
    """Train to the end, from the beginning or from where the run stopped."""
    began = time.monotonic()
    with distributed.process_group(), ExitStack() as locks:
        if distributed.world_size() > 1:
            check_same_flags(args, given)
        if args.recipe and distributed.is_main_process():
            print(f"--recipe {args.recipe}: {recipe_flags(args.recipe, given)}")
        start = open_run(args, given, locks)
        if start.is_finished:
            return report_finished(start)
        args = start.args  # of a run that is resumed, the saved ones
        stop_at = began + 3600 * args.max_hours if args.max_hours else math.inf
        options = prepare_machine(args)
        data = open_data(args, classes=start.config.get("classes"))
        model = build_network(args, data, options=options, resumed=start)
        loss_fn = build_loss(args, model)
        loader = build_train_loader(
            args,
            data.train,
            normalization=model.network.normalization,
            cache_folder=start.folder,
        )
        steps = loader.num_batches
        epochs = args.epochs or default_epochs(args, steps)
        state = build_state(
            args, model, options=options, steps_per_epoch=steps, total_steps=epochs * steps
        )
        validator = build_validator(args, data.val, loss_fn, device=options.device)
        if args.epochs is None:
            num_val = len(data.val) * num_views(args.tiles)
            args = choose_length(
                args, state, loader, loss_fn, options=options, num_val=num_val, stop_at=stop_at
            )
            start = replace(start, args=args)
        config = describe_run(start, data, model.network, options)
        if start.config:
            restore(state, start, config=config, steps_per_epoch=steps)
        begin(start, config, locks)
        saver = build_saver(start, config, state)
        report = build_report(start, data, model, validator, saver)
        profiler = None
        if args.profile and distributed.is_main_process():
            profiler = StepProfiler(saver.run, precision=options.precision)
        try:
            fit(
                state,
                epochs=args.epochs,
                loader=loader,
                loss_fn=loss_fn,
                options=options,
                validator=validator,
                saver=saver,
                report=report,
                profiler=profiler,
                patience=args.patience,
                stop_at=stop_at,
            )
        except (Interrupted, RuntimeError) as error:
            report_stopped(error, saver, state, report)
            raise
        return report_done(saver, state, report, args=args)


def report_finished(start: RunStart) -> int:
    """Say that a resumed run has nothing left to do."""
    if distributed.is_main_process():
        if not start.is_named:
            return_to(start)
        args, why, more = start.args, "", f"--epochs {start.epoch + 10}"
        if start.epoch < args.epochs:
            why, more = f": {stalled(args.patience)}", "--patience 0"
        print(
            f"{start.folder}: finished, {start.epoch} of {args.epochs} epochs are done{why}. To "
            f"train longer: train_ssd.py --resume {args.resume} {more}"
        )
    return 0


def stalled(patience: int) -> str:
    """Say why --patience has ended the run."""
    return f"val AP has not risen for {patience} validations (--patience)"


def report_stopped(
    error: Exception, saver: RunSaver | NoSaver, state: TrainingState, report: RunReport | None
) -> None:
    """Say how to go on after a signal, at the end of the time, or after that of another process.

    Raises:
        OSError: the time is up, and the state is not on disk.
    """
    lost = isinstance(error, RuntimeError) and distributed.explain_lost(error)
    if not distributed.is_main_process() or not (lost or isinstance(error, Interrupted)):
        return
    if isinstance(error, Interrupted) and error.is_time_up:
        check_written(saver, step_path(saver.run, state.epoch + 1, state.step))
        report_results(saver, state, report)
    newest = saver.newest.name if saver.newest else "none written"
    cause = "the end of another process" if lost else error.cause
    print(
        f"{saver.run}: stopped by {cause} after step {state.step}, newest checkpoint {newest}; "
        f"to go on: train_ssd.py --resume {saver.run}"
    )


def report_done(
    saver: RunSaver | NoSaver,
    state: TrainingState,
    report: RunReport | None,
    *,
    args: TrainArguments,
) -> int:
    """Say what came out.

    Raises:
        OSError: the last checkpoint is not on disk.
    """
    if not distributed.is_main_process():
        return 0
    check_written(saver, epoch_path(saver.run, state.epoch))
    report_results(saver, state, report)
    early = "" if state.epoch == args.epochs else f" of {args.epochs}: {stalled(args.patience)}"
    print(f"{saver.run}: {state.epoch} epochs done{early}")
    return 0


def check_written(saver: RunSaver, last: Path) -> None:
    """Raise OSError if the last checkpoint is not on disk, as with --on-save-error continue."""
    if saver.newest != last:
        newest = saver.newest.name if saver.newest else "none of this process"
        raise OSError(f"{last} was not written; the newest checkpoint on disk is {newest}")


def report_results(saver: RunSaver, state: TrainingState, report: RunReport | None) -> None:
    """Write the report, and say what came out until now."""
    best = state.best
    for line in report.finish(best["AP"]) if report else ():
        print(printable(line))
    if best["epoch"]:
        print(f"{saver.run}: best AP {best['AP']:.4f} in epoch {best['epoch']}, checkpoint_best.pt")


def look(args: TrainArguments) -> int:
    """Look before a long run: at one batch, or whether a few images can be learned."""
    with distributed.process_group():
        if args.dry_run:
            print(*map(printable, dry_run(args, picture=Path("dry_run.jpg"))), sep="\n")
            return 0
        result = overfit(args)
    passed = result.ap50 > TARGET_AP50
    print(
        f"--overfit {args.overfit}: AP50 {result.ap50:.3f} on the images trained on "
        f"(perfect predictions: {result.ceiling_ap50:.3f}): " + ("passed" if passed else "failed")
    )
    for line in result.suspects:
        print(f"  {printable(line)}")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
