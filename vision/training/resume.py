"""Where training begins: in a new run folder, or at a checkpoint of a run that is resumed."""

import dataclasses
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import msgspec

from vision.args import TrainArguments
from vision.command_line import flag_of
from vision.engine import distributed
from vision.engine.metrics import MetricsLog
from vision.engine.optim import Schedule
from vision.engine.state import TrainingState, has_stalled
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
    read_config,
    remove_leftovers,
    repair_links,
    set_aside_later,
    write_config,
)
from vision.training.saved_args import check_same_run, resume_arguments

logger = logging.getLogger(__name__)
# A place inside an epoch counts batches of an order that these decide.
_ORDER_ARGUMENTS = ("batch_size", "seed")


@dataclass(frozen=True)
class RunStart:
    """A run folder, and where training begins in it.

    Attributes:
        folder: of the run; one that is new is made by `begin`.
        args: of the run from now on.
        config: of the run that is resumed; empty for a new one.
        path: the checkpoint's file; None for a new run, or one that was killed before it had any.
        checkpoint: its content.
        is_named: the user chose this checkpoint; it need not be the newest.
        changes: {argument: [saved, given]} of those that differ from the saved ones.
        job: of torchrun, by which a run knows that its processes were started again.
    """

    folder: Path
    args: TrainArguments
    config: dict = field(default_factory=dict)
    path: Path | None = None
    checkpoint: dict | None = None
    is_named: bool = False
    changes: dict[str, list] = field(default_factory=dict)
    job: str | None = None

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.checkpoint["epoch"] if self.checkpoint else 0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.checkpoint["step"] if self.checkpoint else 0

    @property
    def is_finished(self) -> bool:
        """Whether a resumed run has no epoch left to do, or --patience has ended it."""
        if self.checkpoint is None:
            return False
        args, best = self.args, self.checkpoint["best"]
        if args.patience and self.epoch < args.epochs:
            return has_stalled(best, self.epoch, patience=args.patience, eval_every=args.eval_every)
        return self.epoch >= args.epochs


def check_same_flags(args: TrainArguments, given: set[str]) -> None:
    """Compare the flags of all processes; those of the main process are the ones that count.

    Raises:
        ValueError: in the main process: another one was given a flag that differs; names both.
        MainProcessStopped: then, in the others.
    """
    flags = {flag_of(name): getattr(args, name) for name in sorted(given)}
    _refuse_other_flags(distributed.gather(flags))


@distributed.on_main_process
def _refuse_other_flags(of_processes: list[dict]) -> None:
    own, *others = of_processes
    for number, flags in enumerate(others, start=1):
        for flag in sorted(own.keys() | flags.keys()):
            if flags.get(flag) != own.get(flag):
                raise ValueError(
                    f"process {number} was given {flag} {flags.get(flag)}, process 0 "
                    f"{own.get(flag)}; start all processes with the same flags"
                )


@distributed.on_main_process
def open_run(args: TrainArguments, given: set[str], locks: ExitStack) -> RunStart:
    """Find where training begins.

    Args:
        args: parsed from the command line.
        given: the names that stood there.
        locks: gets the lock of a folder that is resumed.

    Raises:
        ValueError: there is no run to resume, or one already where a new one is wanted.
    """
    job = distributed.job_id()
    if not args.resume:
        folder = Path(args.checkpoint_folder)
        has_run = (folder / CONFIG).is_file()
        if not (job and has_run and read_config(folder).get("job") == job):
            refuse_used_folder(folder)
            return RunStart(folder, args, job=job)
        # torchrun has started its processes again
        args = dataclasses.replace(args, resume=args.checkpoint_folder)
    folder, named = locate_run(Path(args.resume))
    locks.enter_context(RunLock(folder))
    config, path, checkpoint = find_checkpoint(folder, named)
    args, changes = resume_arguments(config["arguments"], args, given)
    if args.epochs is None:
        raise ValueError(f"{folder / CONFIG}: it has lost --epochs; give --epochs N")
    return RunStart(folder, args, config, path, checkpoint, named is not None, changes, job)


def refuse_used_folder(folder: Path) -> None:
    """Raise ValueError where a run is already, naming the process that trains in it."""
    if (folder / CONFIG).exists() or has_checkpoints(folder):
        with RunLock(folder):
            raise ValueError(
                f"{folder}: there is a run already; --resume {folder}, or choose another folder"
            )
    if (folder / METRICS).exists():  # a new run would write over it
        raise ValueError(
            f"{folder}: {METRICS} of an older run is there; move it away, or choose another folder"
        )


def locate_run(path: Path) -> tuple[Path, Path | None]:
    """Split what --resume got into the run's folder and the checkpoint that was named, if one was.

    Raises:
        ValueError: no run there; says what was looked for.
    """
    if path.suffix == ".pt" and not path.exists():
        names = ", ".join(p.name for p in list_checkpoints(path.parent)[:3]) or "no checkpoints"
        raise ValueError(f"{path}: no such checkpoint; {path.parent} has {names}")
    folder, named = (path.parent, path) if path.is_file() else (path, None)
    if not (folder / CONFIG).is_file() and not has_checkpoints(folder):
        raise ValueError(f"{folder}: no run there (looked for {CONFIG} and checkpoint_epoch_*.pt)")
    return folder, named


def find_checkpoint(folder: Path, named: Path | None) -> tuple[dict, Path | None, dict | None]:
    """Read the configuration, and the named or the newest intact checkpoint.

    Returns:
        The configuration; the checkpoint's file and content, None and None if the run was stopped
        before it had one.

    Raises:
        ValueError: there are checkpoints but none is intact, or the named one is not, or they are
            gone.
    """
    remove_leftovers(folder)
    config = read_config(folder) if (folder / CONFIG).is_file() else None
    check = partial(_check_checkpoint, config)
    if named:
        path, checkpoint = named, read_checkpoint(named)
        check(path, checkpoint)
    elif config and not has_checkpoints(folder):
        num_epochs = len(MetricsLog(folder / METRICS).records)
        if num_epochs > 1:  # the first line is written before the first checkpoint
            raise ValueError(
                f"{folder}: no checkpoint there, but the metrics of {num_epochs} epochs: "
                "put one back, or start a new run in another folder"
            )
        logger.warning("%s: no checkpoint yet, so it starts again from the beginning", folder)
        return config, None, None
    else:
        path, checkpoint, skipped = find_newest(folder, check=check)
        for line in skipped:
            logger.warning("passed over: %s", line)
    if config is None:
        logger.warning("%s is missing; taken from %s", folder / CONFIG, path.name)
    _compare_with_metrics(folder / METRICS, checkpoint["epoch"])
    logger.info(
        "resuming %s at epoch %d, step %d", path.name, checkpoint["epoch"] + 1, checkpoint["step"]
    )
    return config or checkpoint["config"], path, checkpoint


def _compare_with_metrics(path: Path, num_epochs: int) -> None:
    """Warn of epochs that the checkpoint says are done and of which there are no metrics."""
    known = {record["epoch"] for record in MetricsLog(path).records}
    num_absent = num_epochs - sum(1 <= epoch <= num_epochs for epoch in known)
    if num_absent:
        first = next(epoch for epoch in count(1) if epoch not in known)
        logger.warning(
            "%s: no metrics of %d of the %d epochs that are done, first of epoch %d",
            path, num_absent, num_epochs, first,
        )  # fmt: skip


def _check_checkpoint(config: dict | None, path: Path, checkpoint: dict) -> None:
    if config:
        check_same_run(config, path, checkpoint)


@distributed.on_main_process
def begin(start: RunStart, config: dict, locks: ExitStack) -> None:
    """Make the folder ready to train in; called last, so that earlier errors leave no trace.

    Args:
        start: where training begins.
        config: of the run from now on.
        locks: gets the lock of a new folder.
    """
    if not start.config:
        start.folder.mkdir(parents=True, exist_ok=True)
        locks.enter_context(RunLock(start.folder))
        refuse_used_folder(start.folder)  # another process may have begun there in the meantime
    else:
        return_to(start)
    write_config(start.folder, config)


def return_to(start: RunStart) -> None:
    """Make the folder what it was when this checkpoint was the newest; nothing is deleted."""
    if start.checkpoint is None:
        return
    best_epoch = start.checkpoint["best"].get("epoch")
    repair_links(start.folder, start.path, best_epoch=best_epoch)
    if start.is_named:
        inside = start.checkpoint["progress"].get("batches")
        position = (start.epoch + 1, 0, start.step) if inside else (start.epoch, 1, 0)
        folder = set_aside_later(start.folder, position=position, best_epoch=best_epoch)
        if folder:
            logger.warning("later checkpoints were moved to %s", folder)


def restore(state: TrainingState, start: RunStart, *, config: dict, steps_per_epoch: int) -> None:
    """Load the checkpoint of a run that is resumed, and log what differs from before.

    Args:
        state: fresh, built from `config`; changed in place.
        start: where the run goes on.
        config: of the run from now on; its resumes get one more, its history what differs.
        steps_per_epoch: of the data now.
    """
    if start.checkpoint is not None:
        _load_checkpoint(state, start, config=config)
    place = {"epoch": start.epoch, "step": start.step}
    config["resumes"] = [*(start.config.get("resumes") or []), place]
    changes = _log_changes(start, config)
    if changes:
        config["history"] = [*config["history"], {**place, "changes": changes}]
    if start.checkpoint is not None:
        _log_rate_change(state, start, steps_per_epoch=steps_per_epoch)


def _load_checkpoint(state: TrainingState, start: RunStart, *, config: dict) -> None:
    """Load the checkpoint; go to the start of the epoch if the order of images has changed."""
    state.load_state_dict(start.checkpoint)
    before = start.checkpoint["config"]
    changed = [
        flag_of(name)
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


def _log_changes(start: RunStart, config: dict) -> dict[str, list]:
    """Log what differs from before: {name: [before, now]}, for the run's history."""
    changes = start.changes
    for section in ("versions", "machine", "data"):
        before = start.config.get(section) or {}
        for key, now in config[section].items():
            if key in before and before[key] != now:
                changes = {**changes, f"{section}.{key}": [before[key], now]}
    for name, (before, now) in changes.items():
        logger.warning("%s: %s in this run until now, %s from here on", name, before, now)
    if any("." in name for name in changes):
        logger.warning("the run may not end in the same bits as one that was never interrupted")
    return changes


def _log_rate_change(state: TrainingState, start: RunStart, *, steps_per_epoch: int) -> None:
    """Say what another number of epochs does to the learning rate from here on."""
    step = state.epoch * steps_per_epoch + state.progress["batches"]
    try:
        old = msgspec.convert(start.checkpoint["scheduler"], Schedule)
        before, now = old.factor(step), state.schedule.factor(step)
    except (ValueError, OverflowError):
        return  # of another version, or edited
    if old.total_steps != state.schedule.total_steps and before != now:
        logger.warning(
            "%d steps in all instead of %d: the learning rate goes on at %.3g %% of --lr, "
            "not %.3g %%",
            state.schedule.total_steps, old.total_steps, 100 * now, 100 * before,
        )  # fmt: skip
