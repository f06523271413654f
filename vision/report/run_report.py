"""The report of a run in training: written after validations, of the best one at the end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision.engine.loggers import Loggers
from vision.evaluation.coco_boxes import GroundTruth
from vision.evaluation.evaluate import EvaluationResult
from vision.report.analysis import Analysis
from vision.report.data_figures import DataSection
from vision.report.inputs import NetworkFacts, Sources, Validation, describe_network
from vision.report.report import write_report
from vision.report.summary import summary_lines
from vision.report.val_pictures import log_validation
from vision.ssd.postprocess import PostProcessing
from vision.ssd.ssd import SSD

SHARE_OF_TIME = 0.02  # of a run that its reports may take; one on 87 val images takes 1.2 s


@dataclass
class RunReport:
    """Writes RUN/report.html; only the first of several processes has one.

    Attributes:
        run: the run folder; its metrics.jsonl holds the epoch before `after_epoch` is called.
        model: the network that is trained.
        ground_truth: of the val split.
        class_names: of labels 1..C.
        sources: of the val split.
        train_sources: of the training split.
        dataset: where the val data are, for messages.
        postprocessing: of the network.
        dataset_flags: what eval_ssd.py needs to read each of `sources`.
        command: the words of the command that trains.
        loggers: get pictures and curves.
    """

    run: Path
    model: SSD
    ground_truth: GroundTruth
    class_names: list[str]
    sources: Sources
    train_sources: Sources
    dataset: str
    postprocessing: PostProcessing
    dataset_flags: Sequence[Sequence[str]] = ()
    command: Sequence[str] = ()
    loggers: Loggers | None = None
    _best: Validation | None = None
    _newest: Validation | None = None
    _written: tuple[Analysis, Path | None] | None = None
    _next_at: float = 0.0
    _data: DataSection | None = None
    _network: NetworkFacts | None = None

    def after_epoch(self, epoch: int, result: EvaluationResult | None) -> None:
        """Keep a validation, if there was one, and write its report if one is due.

        The first is written, and then another where they have taken SHARE_OF_TIME or less.
        """
        if result is None:
            return
        self._newest = self._validation(epoch, result)
        if self._best is None or _ap(self._newest) >= _ap(self._best):
            self._best = self._newest
        analysis = Analysis(self._newest)
        if self.loggers:
            log_validation(self.loggers, analysis, epoch)
        if time.monotonic() >= self._next_at:
            self._write(analysis)

    def finish(self, best_ap: float | None) -> list[str]:
        """Write the report of the best epoch, and return the summary for the terminal.

        Args:
            best_ap: of the whole run; where an epoch before a resume is better than every one
                since, the newest epoch is reported, as its detections are there.
        """
        if self._best is None:
            return []
        is_best = best_ap is None or _ap(self._best) >= best_ap
        validation = self._best if is_best else self._newest
        if self._written is None or self._written[0].given is not validation:
            self._write(Analysis(validation))
        analysis, path = self._written
        epoch = f"epoch {validation.epoch}{', the best' if is_best else ''}: "
        first, *others = summary_lines(analysis, report=path and str(path))
        return [epoch + first, *others]

    def _validation(self, epoch: int, result: EvaluationResult) -> Validation:
        self._network = self._network or describe_network(self.model)
        return Validation(
            metrics=result.metrics,
            detections=result.detections,
            ground_truth=self.ground_truth,
            class_names=self.class_names,
            network=self._network,
            sources=self.sources,
            weights=str(self.run),
            dataset=self.dataset,
            dataset_flags=self.dataset_flags,
            train_sources=self.train_sources,
            command=self.command,
            score_threshold=self.postprocessing.score_threshold,
            iou_threshold=self.postprocessing.iou_threshold,
            voting_iou=self.postprocessing.voting_iou,
            epoch=epoch,
        )

    def _write(self, analysis: Analysis) -> None:
        self._data = self._data or DataSection(analysis.given)
        began = time.monotonic()
        path = write_report(self.run, analysis, run=self.run, data=self._data)
        done = time.monotonic()
        self._written = analysis, path
        self._next_at = done + (done - began) * (1 / SHARE_OF_TIME - 1)


def _ap(validation: Validation) -> float:
    """AP, below every other where no box could count."""
    ap = validation.metrics["AP"]
    return -1.0 if ap is None else ap
