"""--epochs left out: how many epochs, by the steps that are enough and the time that there is."""

import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from vision.args import FEWEST_EPOCHS, MOST_EPOCHS, TrainArguments
from vision.datasets.loader import DetectionLoader
from vision.engine import distributed
from vision.engine.optim import DEFAULT_STEPS, set_train_mode
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.report.words import duration
from vision.ssd.loss import MultiBoxLoss
from vision.training.build import build_schedule

logger = logging.getLogger(__name__)
PROBE_SECONDS = 5.0  # for how long steps are timed
# An image takes in validation about half of its time in training (benchmarks/RESULTS.md: 87 of
# them are 17 % of an epoch of 205).
VALIDATION_COST = 0.5
# The rest of --max-hours is for checkpoints, the report, and steps that take longer later on: a
# schedule cut off before its end loses more than a shorter one.
PLANNED_SHARE = 0.85


def choose_length(
    args: TrainArguments,
    state: TrainingState,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
    num_val: int,
    stop_at: float,
) -> TrainArguments:
    """Time a few steps, and return the arguments with the --epochs that was left out.

    Args:
        args: of the run.
        state: gets the schedule of the chosen length; else it is what it was, bit for bit.
        loader: the training batches.
        loss_fn: of the run.
        options: of each step.
        num_val: images of the val split; an epoch takes its share of the validations too.
        stop_at: when --max-hours are over, by `time.monotonic`.
    """
    steps, images = loader.num_batches, len(loader.dataset)
    validated = num_val / args.eval_every if args.eval_every else 0.0
    seconds = measure_step(state, loader, loss_fn, options=options)
    epoch_seconds = seconds * steps * (images + VALIDATION_COST * validated) / images
    left = stop_at - time.monotonic()
    args = replace(args, epochs=choose_epochs(args, steps, epoch_seconds, seconds_left=left))
    state.schedule = build_schedule(args, steps_per_epoch=steps, total_steps=args.epochs * steps)
    return args


def default_epochs(args: TrainArguments, steps_per_epoch: int) -> int:
    """Return as many epochs as reach DEFAULT_STEPS, within the limits."""
    if args.scheduler == "multi-step":  # whose --milestones count epochs: their default is for 30
        return FEWEST_EPOCHS
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, -(-DEFAULT_STEPS // steps_per_epoch)))


@distributed.on_main_process
def choose_epochs(
    args: TrainArguments, steps_per_epoch: int, epoch_seconds: float, *, seconds_left: float
) -> int:
    """Return how many epochs are enough, or fit into --max-hours if those are fewer; log it."""
    epochs = default_epochs(args, steps_per_epoch)
    in_time = max(1.0, PLANNED_SHARE * seconds_left / epoch_seconds)
    if in_time < epochs:
        epochs, why = int(in_time), f"as many as --max-hours {args.max_hours:g} has time for"
    elif epochs == FEWEST_EPOCHS:
        why = "the fewest"
    elif epochs == MOST_EPOCHS:
        why = "the most"
    else:
        why = f"the first number that reaches {DEFAULT_STEPS} steps"
    logger.info(
        "--epochs %d, %s: %d steps, about %s",
        epochs, why, epochs * steps_per_epoch, duration(epochs * epoch_seconds),
    )  # fmt: skip
    if epoch_seconds > seconds_left:
        logger.warning("--max-hours %g ends inside the first epoch", args.max_hours)
    return epochs


def measure_step(
    state: TrainingState,
    loader: DetectionLoader,
    loss_fn: MultiBoxLoss,
    *,
    options: StepOptions,
) -> float:
    """Return the seconds of a step and its data; the state is what it was before, bit for bit."""
    before = copy.deepcopy(state.state_dict(config={}, classes=[]))
    set_train_mode(state.model)
    state.schedule.apply(state.optimizer, 0)
    num_steps, seconds = -1, 0.0  # the first step is not timed: it also makes what the others use
    for images, targets, is_padding in _batches_without_end(loader):
        train_step(state, images, targets, loss_fn, options=options, is_padding=is_padding)
        num_steps += 1
        if num_steps == 0:
            began = time.perf_counter()
            continue
        seconds = time.perf_counter() - began
        if distributed.all_reduce_max(int(seconds >= PROBE_SECONDS)):
            break
    state.load_state_dict(before)
    return seconds / num_steps


def _batches_without_end(loader: DetectionLoader) -> Iterator[tuple[Tensor, list[dict], bool]]:
    """Yield images, targets and whether they are padding, of the first epoch again and again."""
    while True:
        loader.set_position(epoch=0)
        for batch, (images, targets) in enumerate(loader):
            yield images, targets, loader.sampler.is_padding(batch)
