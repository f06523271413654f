"""Where a run goes on, and what is not as it was before."""

import argparse
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vision.engine import distributed
from vision.engine.metrics import MetricsLog
from vision.engine.optim import Schedule
from vision.engine.state import TrainingState
from vision.runs.checkpoint import (
    find_newest,
    has_checkpoints,
    list_checkpoints,
    read_checkpoint,
)
from vision.runs.run_folder import (
    CONFIG,
    METRICS,
    RunLock,
    check_config,
    read_config,
    remove_leftovers,
    repair_links,
    set_aside_later,
)
from vision.training.saved_args import check_same_run, resume_arguments

logger = logging.getLogger(__name__)
# A place inside an epoch counts batches of an order that these decide.
_ORDER_ARGUMENTS = ("batch_size", "seed")


@dataclass(frozen=True)
class ResumePoint:
    """What a run goes on from.

    Attributes:
        config: of the run.
        path: the checkpoint's file; None if the run was killed before it had one.
        checkpoint: its content.
        is_named: the user chose this file; it need not be the newest.
    """

    config: dict
    path: Path | None = None
    checkpoint: dict | None = None
    is_named: bool = False

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.checkpoint["epoch"] if self.checkpoint else 0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.checkpoint["step"] if self.checkpoint else 0


def locate_run(path: Path) -> tuple[Path, Path | None]:
    """Split what --resume got into the run's folder and the checkpoint that was named, if one was.

    Raises:
        ValueError: no run there; says what was looked for.
    """
    if path.suffix == ".pt" and not path.exists():
        names = ", ".join(p.name for p in list_checkpoints(path.parent)[:3]) or "no checkpoints"
        raise ValueError(f"{path}: no such checkpoint; {path.parent} has {names}")
    run, named = (path.parent, path) if path.is_file() else (path, None)
    if not (run / CONFIG).is_file() and not has_checkpoints(run):
        raise ValueError(f"{run}: no run there (looked for {CONFIG} and checkpoint_epoch_*.pt)")
    return run, named


def began_in_this_job(folder: str | None) -> bool:
    """Tell whether a folder holds a run of this very torchrun, which then has restarted."""
    job = distributed.job_id()
    if job is None or folder is None or not (Path(folder) / CONFIG).is_file():
        return False
    return read_config(Path(folder)).get("job") == job


def find_resume_point(run: Path, named: Path | None) -> ResumePoint:
    """Read the configuration and the named or the newest intact checkpoint, naming others.

    Raises:
        ValueError: there are checkpoints but none is intact, or the named one is not, or they are
            gone.
    """
    remove_leftovers(run)
    config = read_config(run) if (run / CONFIG).is_file() else None

    def check(path: Path, checkpoint: dict) -> None:
        check_config(checkpoint["config"], where=path)
        if config:
            check_same_run(config, path, checkpoint)

    if named:
        path, checkpoint = named, read_checkpoint(named)
        check(path, checkpoint)
    elif config and not has_checkpoints(run):
        num_epochs = len(MetricsLog(run / METRICS).records)
        if num_epochs > 1:  # the first line is written before the first checkpoint
            raise ValueError(
                f"{run}: no checkpoint there, but the metrics of {num_epochs} epochs: "
                "put one back, or start a new run in another folder"
            )
        logger.warning("%s: no checkpoint yet, so it starts again from the beginning", run)
        return ResumePoint(config)
    else:
        path, checkpoint, skipped = find_newest(run, check=check)
        for line in skipped:
            logger.warning("passed over: %s", line)
    if config is None:
        logger.warning("%s is missing; taken from %s", run / CONFIG, path.name)
    point = ResumePoint(config or checkpoint["config"], path, checkpoint, named is not None)
    logger.info("resuming %s at epoch %d, step %d", path.name, point.epoch + 1, point.step)
    return point


def open_run(args: argparse.Namespace, given: set[str], held: ExitStack) -> tuple:
    """Find what --resume goes on with.

    Args:
        args: parsed from the command line.
        given: the names that stood there.
        held: gets the lock of the run folder.

    Returns:
        The folder, the checkpoint that was named or None, the ResumePoint, the arguments to go on
        with, and {name: [before, now]} of those that change.
    """
    run, named = locate_run(Path(args.resume))
    held.enter_context(RunLock(run))
    point = find_resume_point(run, named)
    return run, named, point, *resume_arguments(point.config["arguments"], args, given)


def return_to(run: Path, point: ResumePoint) -> None:
    """Make the run folder what it was when this checkpoint was the newest; nothing is deleted."""
    if point.checkpoint is None:
        return
    best_epoch = point.checkpoint["best"].get("epoch")
    repair_links(run, point.path, best_epoch=best_epoch)
    if point.is_named:
        inside = point.checkpoint["progress"].get("batches")
        position = (point.epoch + 1, 0, point.step) if inside else (point.epoch, 1, 0)
        folder = set_aside_later(run, position=position, best_epoch=best_epoch)
        if folder:
            logger.warning("later checkpoints were moved to %s", folder)


def restore(state: TrainingState, point: ResumePoint, *, config: dict) -> None:
    """Load the checkpoint into `state`; go to the start of the epoch if its order has changed.

    Args:
        state: fresh, built from `config`; changed in place.
        point: where the run goes on.
        config: of the run from now on.
    """
    if point.checkpoint is None:
        return
    state.load_state_dict(point.checkpoint)
    before = point.checkpoint["config"]
    changed = [
        f"--{name.replace('_', '-')}"
        for name in _ORDER_ARGUMENTS
        if before["arguments"].get(name) != config["arguments"][name]
    ]
    if before.get("data", {}).get("train") != config["data"]["train"]:
        changed.append("the training data")
    if changed and state.progress["batches"]:
        logger.warning(
            "%s changed inside epoch %d, so it begins again, with the weights of step %d",
            " and ".join(changed), state.epoch + 1, state.step,
        )  # fmt: skip
        state.restart_epoch()


def history_entry(point: ResumePoint, config: dict, changes: dict[str, list]) -> dict | None:
    """Log what differs from before, and return it for the run's history; None if nothing does.

    Args:
        point: where the run goes on.
        config: of the run from now on.
        changes: {argument: [before, now]}.
    """
    for section in ("versions", "machine", "data"):
        before = point.config.get(section) or {}
        for key, now in config[section].items():
            if key in before and before[key] != now:
                changes = {**changes, f"{section}.{key}": [before[key], now]}
    for name, (before, now) in changes.items():
        logger.warning("%s: %s in this run until now, %s from here on", name, before, now)
    if any("." in name for name in changes):
        logger.warning("the run may not end in the same bits as one that was never interrupted")
    return {"epoch": point.epoch, "step": point.step, "changes": changes} if changes else None


def log_rate_change(state: TrainingState, point: ResumePoint, *, num_batches: int) -> None:
    """Say what another number of epochs does to the learning rate from here on."""
    if point.checkpoint is None:
        return
    try:
        old = Schedule(**point.checkpoint["scheduler"])
    except TypeError:
        return  # of another version
    step = state.epoch * num_batches + state.progress["batches"]
    before, now = old.factor(step), state.schedule.factor(step)
    if old.total_steps != state.schedule.total_steps and before != now:
        logger.warning(
            "%d steps in all instead of %d: the learning rate goes on at %.3g of --lr, not %.3g",
            state.schedule.total_steps, old.total_steps, now, before,
        )  # fmt: skip
