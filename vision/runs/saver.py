"""Saving a run: when a checkpoint is due, its name, and which older ones are removed."""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vision.engine.metrics import MetricsLog
from vision.engine.state import TrainingState
from vision.runs.checkpoint import BEST, LAST, epoch_path, step_path
from vision.runs.checkpoint_writer import CheckpointWriter, save_error
from vision.runs.run_folder import obsolete_checkpoints

logger = logging.getLogger(__name__)


@dataclass
class RunSaver(AbstractContextManager):
    """Writes the checkpoints and metrics of a run; at the end of a `with` block all is on disk.

    Attributes:
        run: the run folder.
        metrics: its metrics.jsonl.
        config: the run's configuration, stored in each checkpoint.
        classes: one dict for each class: label, category_id, original_category_id, name.
        every_steps: steps between checkpoints inside an epoch; 0: none.
        every_minutes: minutes between checkpoints inside an epoch; 0: none.
        keep_last: number of newest epochs to keep, besides the best; 0: all.
        continue_on_error: continue training when a checkpoint could not be written.
    """

    run: Path
    _: KW_ONLY
    metrics: MetricsLog
    config: dict
    classes: list[dict]
    every_steps: int = 0
    every_minutes: float = 0.0
    keep_last: int = 0
    continue_on_error: bool = False
    _writer: CheckpointWriter = field(default_factory=CheckpointWriter, init=False)
    _last_save: float = field(default_factory=time.monotonic, init=False)
    _disk_checked: bool = field(default=False, init=False)

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that this process has written."""
        return self._writer.last_path

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if self.metrics.loggers:
            self.metrics.loggers.close()
        try:
            self._writer.join()
        except OSError as failure:
            if kind is None:
                self._failed(failure)
            else:  # another error ends the training already: that one is raised
                logger.error("%s", failure)

    def wait(self) -> None:
        """Wait until everything is on disk."""
        self._checked(self._writer.join)

    def after_step(self, state: TrainingState) -> None:
        """Save inside the epoch if it is due; report a failed write soon."""
        self._checked(self._writer.poll)
        self._check_disk(state)
        minutes = (time.monotonic() - self._last_save) / 60
        is_due = (self.every_steps and state.step % self.every_steps == 0) or (
            self.every_minutes and minutes >= self.every_minutes
        )
        if is_due:
            self.save_step(state)

    def save_step(self, state: TrainingState) -> None:
        """Save inside the epoch; the previous such checkpoint is removed."""
        epoch = state.epoch + 1
        path = step_path(self.run, epoch, state.step)

        def find_obsolete() -> list[Path]:
            """Return the checkpoints inside an epoch that are older than this one."""
            older = obsolete_checkpoints(self.run, epoch=epoch, best_epoch=None, keep_last=0)
            return [p for p in older if p != path]

        self._save(state, path, links=[self.run / LAST], find_obsolete=find_obsolete)

    def save_epoch(self, state: TrainingState, record: dict) -> None:
        """Write the epoch's metrics, then its checkpoint.

        In this order, a kill between the two leaves a line without its checkpoint, which a resume
        removes, and never a checkpoint without its line.
        """
        try:
            self.metrics.append(record)
        except OSError as error:
            self._failed(save_error(self.metrics.path, error, len(self.metrics.content())))
        best_epoch = state.best["epoch"]
        self._save(
            state,
            epoch_path(self.run, state.epoch),
            links=[self.run / LAST] + [self.run / BEST] * (best_epoch == state.epoch),
            find_obsolete=partial(
                obsolete_checkpoints,
                self.run,
                epoch=state.epoch,
                best_epoch=best_epoch,
                keep_last=self.keep_last,
            ),
        )

    def _save(self, state: TrainingState, path: Path, **options: Any) -> None:
        """Write a checkpoint in the background; `options` as for `CheckpointWriter.save`."""
        self.wait()
        content = state.state_dict(config=self.config, classes=self.classes)
        self._writer.save(content, path, **options)
        self._last_save = time.monotonic()

    def _checked(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._failed(error)

    def _check_disk(self, state: TrainingState) -> None:
        """Warn once, when the size of a checkpoint is known, if the further ones do not fit."""
        if self._disk_checked or not self._writer.last_size:
            return
        self._disk_checked = True
        to_come = self.config["arguments"]["epochs"] - state.epoch
        if self.keep_last:
            to_come = min(to_come, self.keep_last + 2)  # + the best, + the one just being written
        needed, free = to_come * self._writer.last_size, shutil.disk_usage(self.run).free
        if needed > free:
            logger.warning(
                "%s: the %d checkpoints to come need %.0f MB, %.0f MB are free; see --keep-last",
                self.run, to_come, needed / 1e6, free / 1e6,
            )  # fmt: skip

    def _failed(self, error: OSError) -> None:
        if not self.continue_on_error:
            raise OSError(f"{error}. Earlier checkpoints are intact; free space, then --resume")
        logger.error("%s; training goes on without it", error)


class NoSaver(AbstractContextManager):
    """Does nothing, in place of a RunSaver, in all processes but the main one."""

    def __init__(self, run: Path):
        self.run = run
        self.newest = None

    def __exit__(self, *exception: object) -> None:
        """Do nothing: no write is in progress."""

    def wait(self) -> None:
        """Do nothing: no write is in progress."""

    def after_step(self, state: TrainingState) -> None:
        """Save nothing."""

    def save_step(self, state: TrainingState) -> None:
        """Save nothing."""

    def save_epoch(self, state: TrainingState, record: dict) -> None:
        """Save nothing."""
