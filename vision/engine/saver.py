"""When and under which name the state of a run is saved."""

import logging
import time
from pathlib import Path

from vision.engine.checkpoint import BEST, LAST, CheckpointWriter, epoch_path, step_path
from vision.engine.metrics import MetricsLog
from vision.engine.run_folder import superseded
from vision.engine.state import TrainingState

logger = logging.getLogger(__name__)


class RunSaver:
    """Writes the checkpoints and metrics of a run.

    Args:
        run: the run folder.
        metrics: its metrics.jsonl.
        config: of the run, kept in each checkpoint.
        classes: one dict a class: label, category_id, original_category_id, name.
        every_steps: save inside an epoch every so many steps; 0 does not.
        every_minutes: save inside an epoch after so many minutes; 0 does not.
        keep_last: epochs that stay, besides the best; 0 keeps all.
        continue_on_error: go on when a checkpoint could not be written.
    """

    def __init__(
        self,
        run: Path,
        *,
        metrics: MetricsLog,
        config: dict,
        classes: list[dict],
        every_steps: int = 0,
        every_minutes: float = 0.0,
        keep_last: int = 0,
        continue_on_error: bool = False,
    ):
        self.run = run
        self.metrics = metrics
        self.config = config
        self.classes = classes
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep_last = keep_last
        self.continue_on_error = continue_on_error
        self._writer = CheckpointWriter()
        self._last_save = time.monotonic()

    def after_step(self, state: TrainingState) -> None:
        """Save inside the epoch if it is time."""
        minutes = (time.monotonic() - self._last_save) / 60
        is_due = (self.every_steps and state.step % self.every_steps == 0) or (
            self.every_minutes and minutes >= self.every_minutes
        )
        if is_due:
            self.save_step(state)

    def save_step(self, state: TrainingState) -> None:
        """Save inside the epoch, in place of the last such checkpoint."""
        epoch = state.epoch + 1
        path = step_path(self.run, epoch, state.step)
        older = superseded(self.run, epoch=epoch, best_epoch=None, keep_last=0)
        self._save(state, path, links=[self.run / LAST], remove=[p for p in older if p != path])

    def save_epoch(self, state: TrainingState, record: dict) -> None:
        """Write the epoch's metrics, then its checkpoint.

        In this order a kill between the two leaves a line too many, which a resume takes back, and
        never a checkpoint without its line.
        """
        try:
            self.metrics.append(record)
        except OSError as error:
            self._failed(OSError(f"{self.metrics.path}: could not be written ({error.strerror})"))
        best_epoch = state.best["epoch"]
        self._save(
            state,
            epoch_path(self.run, state.epoch),
            links=[self.run / LAST] + [self.run / BEST] * (best_epoch == state.epoch),
            remove=superseded(
                self.run, epoch=state.epoch, best_epoch=best_epoch, keep_last=self.keep_last
            ),
        )

    def finish(self) -> None:
        """Wait until everything is on disk."""
        try:
            self._writer.join()
        except OSError as error:
            self._failed(error)

    def _save(self, state: TrainingState, path: Path, **options: list[Path]) -> None:
        content = state.state_dict(config=self.config, classes=self.classes)
        try:
            self._writer.save(content, path, **options)
        except OSError as error:  # of the write before this one
            self._failed(error)
            self._writer.save(content, path, **options)
        self._last_save = time.monotonic()

    def _failed(self, error: OSError) -> None:
        if not self.continue_on_error:
            raise OSError(f"{error}. Earlier checkpoints are intact; free space, then --resume")
        logger.error("%s; training goes on without it", error)
