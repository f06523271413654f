"""The training loop: epochs of steps, validation, checkpoints."""

import logging
import math
import time

import torch
from torch import Tensor

from vision.datasets.loader import DetectionLoader
from vision.engine import distributed
from vision.engine.metrics import peak_memory_mb, show_progress
from vision.engine.nonfinite import MAX_IN_A_ROW, NonFiniteError, report_nonfinite
from vision.engine.optim import set_train_mode
from vision.engine.profile import StepProfiler
from vision.engine.signals import Interrupted, StopSignals
from vision.engine.state import TrainingState, has_stalled
from vision.engine.step import LOSS_TERMS, StepOptions, train_step
from vision.evaluation.validator import Validator
from vision.report.run_report import RunReport
from vision.runs.saver import NoSaver, RunSaver
from vision.ssd.loss import MultiBoxLoss

logger = logging.getLogger(__name__)


def fit(
    state: TrainingState,
    *,
    epochs: int,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    options: StepOptions,
    validator: Validator | None,
    saver: RunSaver | NoSaver,
    report: RunReport | None = None,
    profiler: StepProfiler | None = None,
    patience: int = 0,
    stop_at: float = math.inf,
) -> None:
    """Train until `epochs` epochs are done or AP no longer rises, saving after each epoch.

    Args:
        state: where to start, changed in place; in the middle of an epoch, the rest of it is done.
        epochs: number of epochs of the whole run, those already done included.
        loader: training batches.
        loss_fn: computes the loss terms.
        options: settings of each step.
        validator: measures the model on the val split; None: there is none.
        saver: writes checkpoints and metrics.
        report: writes report.html, in the main process.
        profiler: called after each step of the first epoch.
        patience: stop after so many validations that did not raise the best AP; 0: do not.
        stop_at: when the time is up, by `time.monotonic`.

    Raises:
        Interrupted: a signal came, or the time is up; the state is saved.
        RuntimeError: another process of the job has ended; the state is saved.
        NonFiniteError: the loss or the gradient of a step is not finite.
        OSError: the state could not be saved.
    """
    every = validator.every if validator else 0
    with StopSignals(stop_at) as signals, saver:
        try:
            while state.epoch < epochs:
                if patience and has_stalled(
                    state.best, state.epoch, patience=patience, eval_every=every
                ):
                    break
                train_metrics = train_one_epoch(
                    state,
                    loader,
                    loss_fn,
                    options=options,
                    saver=saver,
                    signals=signals,
                    profiler=profiler,
                )
                # Validation may start processes, which would inherit a file that is being written.
                saver.wait()
                val_metrics = finish_epoch(state, validator, signals, last_epoch=epochs)
                record = {"epoch": state.epoch, "step": state.step, **train_metrics, **val_metrics}
                add_time_shares(record)
                saver.save_epoch(state, record)
                if report and "AP" in val_metrics:
                    report.after_epoch(state.epoch, validator.result)
                logger.info(epoch_line(record, epochs))
                if profiler:
                    profiler.after_epoch(record)
                    profiler = None
        except (Interrupted, RuntimeError) as error:
            # The state is that between two steps: train_step undoes a step that was cut short.
            if isinstance(error, Interrupted) or distributed.explain_lost(error):
                saver.save_step(state)
                saver.wait()
            raise


def train_one_epoch(
    state: TrainingState,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
    saver: RunSaver | NoSaver,
    signals: StopSignals,
    profiler: StepProfiler | None = None,
) -> dict:
    """Train for the rest of the current epoch, from `state.progress` on; return its metrics."""
    set_train_mode(state.model)
    progress = state.progress
    # The step for the schedule. It equals `state.step`, unless a resumed run has another number of
    # batches in an epoch.
    epoch_start = state.epoch * loader.num_batches
    loader.set_position(state.epoch, start_batch=progress["batches"])
    num_images, data_wait = 0, 0.0
    start = waiting_since = time.perf_counter()
    bar = show_progress(loader, f"epoch {state.epoch + 1}")
    for images, targets in bar:
        data_wait += time.perf_counter() - waiting_since
        batch = progress["batches"]
        state.schedule.apply(state.optimizer, epoch_start + batch)
        is_padding = loader.sampler.is_padding(batch)
        values, is_finite = train_step(
            state, images, targets, loss_fn, options=options, is_padding=is_padding
        )
        if not is_finite:
            _handle_nonfinite(state, values, images, targets, saver=saver, options=options)
        _count_step(state, values, is_finite=is_finite)
        first, end = loader.sampler.batch_bounds(batch)
        num_images += end - first
        bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        signals.check()
        saver.after_step(state)
        if profiler:
            profiler.after_step()
        waiting_since = time.perf_counter()
    seconds = time.perf_counter() - start
    # Again after the loop, for a resumed run that has no steps left in this epoch.
    state.schedule.apply(state.optimizer, epoch_start + progress["batches"] - 1)
    taken = progress["batches"] - progress["nonfinite"]
    return {
        "lr": max(group["lr"] for group in state.optimizer.param_groups),
        **{name: progress[name] / taken if taken else math.nan for name in LOSS_TERMS},
        "nonfinite_steps": progress["nonfinite"],
        "images_per_second": num_images / seconds,
        "data_seconds": data_wait,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def finish_epoch(
    state: TrainingState, validator: Validator | None, signals: StopSignals, *, last_epoch: int
) -> dict:
    """Validate the model if this epoch is one to validate after, and count the epoch.

    Returns:
        `eval_seconds`; after a validation also the metrics of `Validator.validate`, AP among them.

    Raises:
        Interrupted: as `StopSignals.check`; the epoch is not counted then.
    """
    start = time.perf_counter()
    distributed.broadcast_buffers(state.evaluated_model)
    is_due = validator and validator.is_due(state.epoch + 1, last_epoch=last_epoch)
    metrics = validator.validate(state.evaluated_model, signals) if is_due else {}
    metrics["eval_seconds"] = time.perf_counter() - start
    thresholds = validator.thresholds() if is_due else None
    state.finish_epoch(metrics.get("AP"), thresholds=thresholds)
    return metrics


def _count_step(state: TrainingState, values: dict[str, float], *, is_finite: bool) -> None:
    """Count a step and, if it was taken, add its loss to the epoch's sums."""
    state.step += 1
    state.progress["batches"] += 1
    if is_finite:
        for name in LOSS_TERMS:
            state.progress[name] += values[name]
        state.progress["nonfinite_in_a_row"] = 0
    else:
        state.progress["nonfinite"] += 1
        state.progress["nonfinite_in_a_row"] += 1


def _handle_nonfinite(
    state: TrainingState,
    values: dict[str, float],
    images: Tensor,
    targets: list[dict],
    *,
    saver: RunSaver | NoSaver,
    options: StepOptions,
) -> None:
    """Report a step that is not finite; raise NonFiniteError unless it may be skipped."""
    parts = distributed.gather((images, targets))
    line = f"step {state.step} is not finite"
    if parts:
        line = report_nonfinite(
            saver.run,
            step=state.step,
            values=values,
            images=torch.cat([images for images, _ in parts]),
            targets=[target for _, targets in parts for target in targets],
        )
    if not options.skip_nonfinite:
        raise NonFiniteError(line) if parts else distributed.MainProcessStopped
    logger.error("step skipped: %s", line)
    if state.progress["nonfinite_in_a_row"] + 1 >= MAX_IN_A_ROW:
        raise NonFiniteError(f"{MAX_IN_A_ROW} steps in a row were not finite; {line}")


def add_time_shares(record: dict) -> None:
    """Add the shares of the epoch's time, 0..1: `data_wait`, `step_share` and `eval_share`."""
    waited = record.pop("data_seconds")
    whole = record["seconds"] + record["eval_seconds"]
    record["data_wait"] = waited / whole
    record["step_share"] = (record["seconds"] - waited) / whole
    record["eval_share"] = record["eval_seconds"] / whole


def epoch_line(record: dict, epochs: int) -> str:
    """Return the log line of an epoch."""
    parts = [f"epoch {record['epoch']}/{epochs}", f"loss {record['loss']:.4f}"]
    if "val_loss" in record:
        parts.append(f"val loss {record['val_loss']:.4f}")
    if record.get("AP") is not None:
        parts.append(f"AP {record['AP']:.4f} AP50 {record['AP50']:.4f}")
    parts += [
        f"lr {record['lr']:.2g}",
        f"{record['images_per_second']:.1f} images/s",
        f"{record['seconds'] + record['eval_seconds']:.0f} s ({record['data_wait']:.0%} waiting "
        f"for data, {record['step_share']:.0%} steps, {record['eval_share']:.0%} validation)",
        f"{record['peak_memory_mb']:.0f} MB",
    ]
    return ", ".join(parts)
