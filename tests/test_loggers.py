"""--logger: what each logger has afterwards, read back from its own files, without a network."""

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vision.engine.loggers import LOGGERS, Loggers, open_loggers
from vision.engine.metrics import MetricsLog

RECALL = np.linspace(0, 1, 11)
CONFIG = {"net": "mb2-ssd-lite", "image_size": [300, 300]}


def log_two_epochs(run: Path, name: str, *, first_epoch: int = 1) -> None:
    run.mkdir(exist_ok=True)
    loggers = open_loggers((name,), run, CONFIG, first_epoch=first_epoch)
    metrics = MetricsLog(run / "metrics.jsonl", loggers=loggers)
    for epoch in (first_epoch, first_epoch + 1):
        metrics.append({"epoch": epoch, "loss": 1 / epoch, "AP": None, "note": "text"})
        loggers.log_picture("val/0", np.full((8, 6, 3), 200, np.uint8), epoch)
        loggers.log_curve("precision-recall/cat", RECALL, 1 - RECALL, 5, epoch)
    assert loggers, "it failed on the way"
    loggers.close()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A folder in which the loggers keep what they write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def need(name: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed (pip install -e .[loggers])")


def test_tensorboard(tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_two_epochs(tmp_path, "tensorboard")
    log_two_epochs(tmp_path, "tensorboard", first_epoch=2)  # resumed after the first epoch
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert losses == [(1, 1), (2, 0.5), (3, 0.3333)]
    assert "AP" not in events.Tags()["scalars"]
    assert events.Images("val/0")[0].width == 6


def test_trackio(offline):
    need("trackio")
    import sqlite3

    log_and_resume(offline / "run", "trackio")
    with sqlite3.connect(offline / "trackio/ssd.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    text = [(step, str(values)) for _, step, values in rows]
    assert [step for step, values in text if '"loss"' in values] == [1, 2, 3, 4]
    assert [step for step, values in text if "trackio.image" in values] == [1, 2, 3, 4]
    assert [step for step, values in text if "trackio.table" in values] == [1, 2, 3, 4]


def test_wandb(offline):
    need("wandb")
    log_and_resume(offline / "run", "wandb")
    files = sorted(offline.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one run, in two parts
    for file, epochs in zip(files, ((1, 2), (3, 4)), strict=True):
        content = file.read_bytes()
        for epoch in epochs:
            assert str(1 / epoch).encode() in content
        assert b"val/0" in content and b"precision-recall/cat" in content


def test_mlflow(offline):
    need("mlflow")
    log_and_resume(offline / "run", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("ssd").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.data.params["net"]) == ("run", "mb2-ssd-lite")
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [(item.step, item.value) for item in losses] == [(n, 1 / n) for n in (1, 2, 3, 4)]
    assert len(client.list_artifacts(run.info.run_id, "precision-recall/cat")) == 4


def log_and_resume(run: Path, name: str) -> None:
    """As a training and its resume do; a process of its own, since these packages start threads."""
    program = (
        "import sys; from pathlib import Path; from test_loggers import log_two_epochs\n"
        "for epoch in (1, 3): log_two_epochs(Path(sys.argv[1]), sys.argv[2], first_epoch=epoch)"
    )
    root = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(run), name],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root.parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


class Broken:
    def log_numbers(self, values, epoch):
        raise ConnectionError("no route to the server")


def test_one_that_fails_is_left_out_and_said(tmp_path, caplog):
    loggers = Loggers({"wandb": Broken()})
    metrics = MetricsLog(tmp_path / "metrics.jsonl", loggers=loggers)
    with caplog.at_level(logging.WARNING):
        for epoch in (1, 2):
            metrics.append({"epoch": epoch, "loss": 1.0})
    assert not loggers and len(metrics.records) == 2
    assert caplog.messages == [
        "--logger wandb: no route to the server; it gets nothing more of this run"
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [(ImportError("x"), "install it first"), (OSError("no key"), "does not start: no key")],
)
def test_one_that_does_not_start_is_named(tmp_path, monkeypatch, error, words):
    def start(*_, **__):
        raise error

    monkeypatch.setitem(LOGGERS, "wandb", start)
    with pytest.raises(ValueError, match=f"^--logger wandb.*{words}"):
        open_loggers(("wandb",), tmp_path, CONFIG, first_epoch=1)
