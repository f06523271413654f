"""A run's folder: its lock, config.json, labels.txt, and which checkpoints stay."""

import contextlib
import errno
import json
import logging
import os
import socket
from pathlib import Path

from vision.files.atomic_file import sync_folder, write_atomically
from vision.runs.checkpoint import (
    BEST,
    LAST,
    epoch_path,
    link_or_copy,
    list_checkpoints,
    position_of,
)

try:
    import fcntl
except ImportError:  # Windows has no POSIX locks; there a run folder is not guarded
    fcntl = None

logger = logging.getLogger(__name__)
CONFIG, LABELS, METRICS, LOCK = "config.json", "labels.txt", "metrics.jsonl", "run.lock"
_CLASS_KEYS = {"label", "category_id", "original_category_id", "name"}


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
        try:
            if fcntl:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logger.warning("%s: no locks here (%s): start one process only", run, error)
                return
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
    except ValueError:
        config = None
    check_config(config, where=path)
    return config


def check_config(config: object, *, where: Path) -> None:
    """Refuse what is not the configuration of a run; the arguments' values are not looked at.

    Raises:
        ValueError: names `where`.
    """
    try:
        is_config = (
            isinstance(config["arguments"], dict)
            and all(set(item) >= _CLASS_KEYS for item in config["classes"])
            and all(isinstance(entry["changes"], dict) for entry in config["history"])
        )
    except (KeyError, TypeError):
        is_config = False
    if not is_config:
        raise ValueError(f"{where}: not a configuration written by train_ssd.py")


def write_config(run: Path, config: dict) -> None:
    """Write labels.txt and config.json, which makes the folder a run."""
    names = ["BACKGROUND", *(item["name"] for item in config["classes"])]
    write_atomically(run / LABELS, ("\n".join(names) + "\n").encode())
    write_atomically(run / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def remove_leftovers(run: Path) -> None:
    """Remove temporary files that a killed process of this run left."""
    for path in run.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def repair_links(run: Path, newest: Path, *, best_epoch: int | None) -> None:
    """Point checkpoint_last.pt and checkpoint_best.pt at the right files again.

    A kill between the checkpoint and its links, or a return to an older one, leaves them behind.
    """
    link_or_copy(newest, run / LAST)
    best = epoch_path(run, best_epoch) if best_epoch else None
    if best is not None and best.is_file():
        link_or_copy(best, run / BEST)


def set_aside_later(run: Path, *, position: tuple[int, ...], best_epoch: int | None) -> Path | None:
    """Move checkpoints later than `position` into a folder of their own, with the metrics.

    For a return to an older checkpoint: otherwise the next --resume, or a kill before the first
    new checkpoint, would go on from what was to be undone. Newest first, so that at each moment
    what is left is a run.

    Args:
        run: the folder.
        position: of the older checkpoint, as `position_of` gives it.
        best_epoch: the best one until then; None: what is best now comes later, and goes too.

    Returns:
        The new folder, or None if there was nothing later.
    """
    later = [path for path in list_checkpoints(run) if position_of(path) > position]
    if not later:
        return None
    number = 1
    while (folder := run / f"set_aside_{number}").exists():
        number += 1
    folder.mkdir()
    if (run / METRICS).is_file():
        write_atomically(folder / METRICS, (run / METRICS).read_bytes())
    if best_epoch is None and (run / BEST).exists():
        later.append(run / BEST)
    for path in later:
        os.replace(path, folder / path.name)
    sync_folder(folder)
    sync_folder(run)
    return folder


def superseded(run: Path, *, epoch: int, best_epoch: int | None, keep_last: int) -> list[Path]:
    """Name the checkpoints that the one of `epoch` makes needless, once it is on disk.

    Those are the ones inside an epoch up to this one and, with `keep_last` K > 0, all but the
    newest K epochs that are there, the best excepted.
    """
    needless, num_epochs = [], 0
    for path in list_checkpoints(run):
        number, is_done, _ = position_of(path)
        if number > epoch:
            continue
        num_epochs += is_done
        if not is_done or (keep_last and num_epochs > keep_last and number != best_epoch):
            needless.append(path)
    return needless
