"""The report of a run in training: written after validations, and of the best one at the end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vision.engine.loggers import Loggers
from vision.evaluation.coco_boxes import GroundTruth
from vision.evaluation.evaluate import EvaluationResult
from vision.report.analysis import Analysis
from vision.report.inputs import NetworkFacts, Sources, Validation
from vision.report.report import write_report
from vision.report.summary import summary_lines
from vision.report.val_pictures import log_validation

MAX_SHARE = 0.05  # of the run's time, besides the first report and the last


@dataclass
class RunReport:
    """Writes RUN/report.html; only the first of several processes has one.

    Attributes:
        run: the run folder; its metrics.jsonl holds the epoch before `after_epoch` is called.
        network: of the model, from `describe_network`.
        ground_truth: of the val split.
        class_names: of labels 1..C.
        sources: of the val split.
        train_sources: of the training split.
        dataset: the val data's folder.
        dataset_flags: what eval_ssd.py needs to read it.
        command: the words of the command that trains.
        loggers: get pictures and curves.
    """

    run: Path
    network: NetworkFacts
    ground_truth: GroundTruth
    class_names: list[str]
    sources: Sources
    train_sources: Sources
    dataset: str
    dataset_flags: Sequence[str] = ()
    command: Sequence[str] = ()
    loggers: Loggers | None = None
    _best: Validation | None = None
    _newest: Analysis | None = None
    _written: float = field(default=float("-inf"))
    _cost: float = 0.0

    def after_epoch(self, epoch: int, result: EvaluationResult | None) -> Analysis | None:
        """Keep a validation and, where that is due, write its report.

        A report of every epoch of a quick run would cost more than the training: it is due when
        its last cost is under MAX_SHARE of the time since.

        Returns:
            The analysis, for loggers; None in an epoch without a validation.
        """
        if result is None:
            return None
        validation = self._validation(epoch, result)
        if self._best is None or _ap(validation) >= _ap(self._best):
            self._best = validation
        self._newest = Analysis(validation)
        if self.loggers:
            log_validation(self.loggers, self._newest, epoch)
        if self._cost <= MAX_SHARE * (time.monotonic() - self._written):
            self._write(validation)
        return self._newest

    def finish(self, best_ap: float | None) -> list[str]:
        """Write the report of the best epoch, and return the summary for the terminal.

        Args:
            best_ap: of the whole run; where an epoch before a resume is better than every one
                since, the newest epoch is reported, as its detections are there.
        """
        if self._best is None:
            return []
        is_best = best_ap is None or _ap(self._best) >= best_ap
        validation = self._best if is_best else self._newest.given
        analysis, path = self._write(validation)
        epoch = f"epoch {validation.epoch}{', the best' if is_best else ''}: "
        first, *others = summary_lines(analysis, report=path and str(path))
        return [epoch + first, *others]

    def _validation(self, epoch: int, result: EvaluationResult) -> Validation:
        return Validation(
            metrics=result.metrics,
            detections=result.detections,
            ground_truth=self.ground_truth,
            class_names=self.class_names,
            network=self.network,
            sources=self.sources,
            weights=str(self.run),
            dataset=self.dataset,
            dataset_flags=self.dataset_flags,
            train_sources=self.train_sources,
            command=self.command,
            epoch=epoch,
        )

    def _write(self, validation: Validation) -> tuple[Analysis, Path | None]:
        start = time.monotonic()
        written = write_report(self.run, validation, run=self.run)
        self._written = time.monotonic()
        self._cost = self._written - start
        return written


def _ap(validation: Validation) -> float:
    """AP, below every other where no box could count."""
    ap = validation.metrics["AP"]
    return -1.0 if ap is None else ap
