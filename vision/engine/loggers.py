"""--logger: a run's numbers, pictures and curves in TensorBoard, trackio, Weights & Biases, MLflow.

Each is a package of its own that need not be installed, and keeps its data where it always does:
TensorBoard in RUN/tensorboard, the others where their environment variables say
(WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_DIR).
"""

import json
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from vision.files.atomic_file import write_atomically
from vision.files.guarded import refuse_link
from vision.files.structured_text import read_json

logger = logging.getLogger(__name__)
PROJECT = "ssd"  # of the runs, where the logger's own environment variable names none
IDS = "logger_ids.json"  # in the run folder: by what a resumed run goes on in its logger


class RunLogger(Protocol):
    """What a logger can do; `epoch` is counted from 1."""

    def log_numbers(self, values: dict[str, float], epoch: int) -> None:
        """Add an epoch's numbers by name."""

    def log_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add a picture, uint8 [H, W, 3] in RGB."""

    def log_curve(
        self, name: str, recall: np.ndarray, precision: np.ndarray, num_objects: int, epoch: int
    ) -> None:
        """Add a precision-recall curve, float [R] each, of a class with so many objects."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard(RunLogger):
    """RUN/tensorboard, by torch.utils.tensorboard."""

    def __init__(self, run: Path, config: dict, *, first_epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        refuse_link(run / "tensorboard")
        purge_step = first_epoch if first_epoch > 1 else None
        self._writer = SummaryWriter(run / "tensorboard", purge_step=purge_step)

    def log_numbers(self, values: dict[str, float], epoch: int) -> None:
        """Add each as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def log_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add the picture."""
        self._writer.add_image(name, pixels, epoch, dataformats="HWC")

    def log_curve(
        self, name: str, recall: np.ndarray, precision: np.ndarray, num_objects: int, epoch: int
    ) -> None:
        """Add the curve, with the counts that TensorBoard shows beside it."""
        recall, precision = recall[::-1], precision[::-1]  # it draws from high recall to low
        tp = recall * num_objects
        fp = np.where(precision > 0, tp / np.maximum(precision, 1e-9) - tp, 0)
        self._writer.add_pr_curve_raw(
            name,
            true_positive_counts=tp, false_positive_counts=fp,
            true_negative_counts=np.zeros_like(tp), false_negative_counts=num_objects - tp,
            precision=precision, recall=recall, global_step=epoch, num_thresholds=len(recall),
        )  # fmt: skip
        self._writer.flush()

    def close(self) -> None:
        """Close the file of events."""
        self._writer.close()


class Trackio(RunLogger):
    """trackio, of Hugging Face: a local database and dashboard."""

    def __init__(self, run: Path, config: dict, *, first_epoch: int):
        import trackio

        self._module = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name, is_new = _run_id(
            run, "trackio", lambda: f"{run.resolve().name}-{secrets.token_hex(3)}"
        )
        self._run = trackio.init(
            project=project, name=name, config=config, resume="never" if is_new else "allow"
        )

    def log_numbers(self, values: dict[str, float], epoch: int) -> None:
        """Add them as one step."""
        self._run.log({**values, "epoch": epoch}, step=epoch)

    def log_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add the picture."""
        self._run.log({name: self._module.Image(pixels)}, step=epoch)

    def log_curve(
        self, name: str, recall: np.ndarray, precision: np.ndarray, num_objects: int, epoch: int
    ) -> None:
        """Add the curve as a table: Trackio draws none."""
        rows = [list(row) for row in zip(recall.tolist(), precision.tolist(), strict=True)]
        table = self._module.Table(columns=["recall", "precision"], data=rows)
        self._run.log({name: table}, step=epoch)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Wandb(RunLogger):
    """Weights & Biases."""

    def __init__(self, run: Path, config: dict, *, first_epoch: int):
        import wandb

        self._module = wandb
        name, _ = _run_id(run, "wandb", lambda: secrets.token_hex(4))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.resolve().name,
            id=name,
            config=config,
            resume="allow",
        )

    def log_numbers(self, values: dict[str, float], epoch: int) -> None:
        """Add them, with the epoch as a number: steps are counted by wandb itself."""
        self._run.log({**values, "epoch": epoch})

    def log_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add the picture."""
        self._run.log({name: self._module.Image(pixels), "epoch": epoch})

    def log_curve(
        self, name: str, recall: np.ndarray, precision: np.ndarray, num_objects: int, epoch: int
    ) -> None:
        """Add the curve as a drawing of a table."""
        rows = [list(row) for row in zip(recall.tolist(), precision.tolist(), strict=True)]
        table = self._module.Table(columns=["recall", "precision"], data=rows)
        line = self._module.plot.line(table, "recall", "precision", title=name)
        self._run.log({name: line, "epoch": epoch})

    def close(self) -> None:
        """End the run, which waits for the upload."""
        self._run.finish()


class Mlflow(RunLogger):
    """MLflow tracking."""

    def __init__(self, run: Path, config: dict, *, first_epoch: int):
        import mlflow

        self._module = mlflow
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
            mlflow.set_experiment(PROJECT)
        known = _saved_ids(run).get("mlflow")
        active = mlflow.start_run(run_id=known, run_name=None if known else run.resolve().name)
        if known is None:
            _run_id(run, "mlflow", lambda: active.info.run_id)
            mlflow.log_params({key: str(value)[:500] for key, value in config.items()})

    def log_numbers(self, values: dict[str, float], epoch: int) -> None:
        """Add each as a metric."""
        self._module.log_metrics(values, step=epoch)

    def log_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add the picture; MLflow's keys have no slash."""
        self._module.log_image(pixels, key=name.replace("/", "-"), step=epoch)

    def log_curve(
        self, name: str, recall: np.ndarray, precision: np.ndarray, num_objects: int, epoch: int
    ) -> None:
        """Add the curve as a JSON file: MLflow draws none."""
        points = {"recall": recall.tolist(), "precision": precision.tolist()}
        self._module.log_dict(points, f"{name}/{epoch:04d}.json")

    def close(self) -> None:
        """End the run."""
        self._module.end_run()


LOGGERS: dict[str, Callable[..., RunLogger]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


class Loggers:
    """All loggers of a run as one; a logger that fails is left out from then on, and said."""

    def __init__(self, loggers: dict[str, RunLogger]):
        self._loggers = loggers

    def __bool__(self) -> bool:
        """Whether any logger is left."""
        return bool(self._loggers)

    def log_numbers(self, values: dict[str, float], epoch: int) -> None:
        """Add an epoch's numbers by name."""
        self._each("log_numbers", values, epoch)

    def log_picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Add a picture, uint8 [H, W, 3] in RGB."""
        self._each("log_picture", name, pixels, epoch)

    def log_curve(
        self, name: str, recall: np.ndarray, precision: np.ndarray, num_objects: int, epoch: int
    ) -> None:
        """Add a precision-recall curve, float [R] each, of a class with so many objects."""
        self._each("log_curve", name, recall, precision, num_objects, epoch)

    def close(self) -> None:
        """Write what is left."""
        self._each("close")

    def _each(self, method: str, *arguments: object) -> None:
        for name, item in list(self._loggers.items()):
            try:
                getattr(item, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - no trouble of a server ends a training
                logger.warning("--logger %s: %s; it gets nothing more of this run", name, error)
                del self._loggers[name]


def open_loggers(names: tuple[str, ...], run: Path, config: dict, *, first_epoch: int) -> Loggers:
    """Start the loggers.

    Args:
        names: of LOGGERS.
        run: the run folder.
        config: the run's arguments.
        first_epoch: the next one to be logged; a resumed run's later ones are made again.

    Raises:
        ValueError: one is not installed, or does not start; names it.
    """
    opened: dict[str, RunLogger] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = LOGGERS[name](run, config, first_epoch=first_epoch)
        except ImportError:
            raise ValueError(f"--logger {name}: install it first: pip install {name}") from None
        except Exception as error:
            raise ValueError(f"--logger {name} does not start: {error}") from error
    return Loggers(opened)


def _run_id(run: Path, name: str, make: Callable[[], str]) -> tuple[str, bool]:
    """The id of this run in a logger, kept in the run folder, and whether it is new."""
    ids = _saved_ids(run)
    is_new = name not in ids
    if is_new:
        ids[name] = make()
        write_atomically(run / IDS, (json.dumps(ids, indent=2) + "\n").encode())
    return ids[name], is_new


def _saved_ids(run: Path) -> dict[str, str]:
    try:
        ids = read_json(run / IDS)
    except (OSError, ValueError):
        return {}
    return ids if isinstance(ids, dict) else {}
