"""A run's folder: its lock, config.json, labels.txt, and which checkpoints stay."""

import contextlib
import json
import os
import socket
from pathlib import Path

from vision.datasets.atomic_file import write_atomically
from vision.engine.checkpoint import BEST, epoch_path, link_or_copy, list_checkpoints

try:
    import fcntl
except ImportError:  # Windows has no POSIX locks; there a run folder is not guarded
    fcntl = None

CONFIG, LABELS, METRICS, LOCK = "config.json", "labels.txt", "metrics.jsonl", "run.lock"


class RunLock:
    """Keeps a second process out of a run folder.

    A POSIX record lock: the system drops it with the process, however that ends, and children do
    not inherit it. The file says who holds it.

    Raises:
        ValueError: another process holds it; names its pid and host.
    """

    def __init__(self, run: Path):
        self._file = open(run / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  held while it runs
        self._file.seek(0)
        holder = self._file.read().strip() or "another process"
        if fcntl:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                raise ValueError(
                    f"{run}: {holder} trains in this folder; wait for it, stop it, "
                    "or choose another --checkpoint-folder"
                ) from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()


def read_config(run: Path) -> dict:
    """Read config.json.

    Raises:
        ValueError: it is not there, or not what this toolkit writes.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ValueError(f"{run}: no run there (looked for {CONFIG} and checkpoint_epoch_*.pt)")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config["arguments"], dict) or not isinstance(config["classes"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not a configuration written by train_ssd.py") from None
    return config


def write_config(run: Path, config: dict) -> None:
    """Write config.json and labels.txt."""
    write_atomically(run / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    names = ["BACKGROUND", *(item["name"] for item in config["classes"])]
    write_atomically(run / LABELS, ("\n".join(names) + "\n").encode())


def remove_leftovers(run: Path) -> None:
    """Remove temporary files that a killed process of this run left."""
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def point_best_at(run: Path, epoch: int | None) -> None:
    """Make checkpoint_best.pt the file of `epoch` again, after a return to an older checkpoint."""
    path = epoch_path(run, epoch) if epoch else None
    if path is not None and path.is_file():
        link_or_copy(path, run / BEST)


def superseded(run: Path, *, epoch: int, best_epoch: int | None, keep_last: int) -> list[Path]:
    """Name the checkpoints that the one of `epoch` makes needless.

    Those are the ones inside an epoch up to this one and, with `keep_last` K > 0, the epochs before
    the last K, the best excepted.
    """
    needless = []
    for path in list_checkpoints(run):
        number = int(path.name.split("_")[2].removesuffix(".pt"))
        if "_step_" in path.name:
            if number <= epoch:
                needless.append(path)
        elif keep_last and number <= epoch - keep_last and number != best_epoch:
            needless.append(path)
    return needless
