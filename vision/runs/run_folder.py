"""The folder of a run: its lock, config.json, labels.txt, and which checkpoints are kept."""

import contextlib
import errno
import json
import logging
import os
import socket
from pathlib import Path

from vision.files.atomic_file import remove_abandoned, sync_folder, write_atomically
from vision.files.guarded import own_only, read_regular
from vision.files.printable import printable
from vision.files.structured_text import read_json
from vision.runs.checkpoint import (
    BEST,
    LAST,
    epoch_path,
    link_or_copy,
    list_checkpoints,
    position_of,
)
from vision.runs.run_config import check_config

try:
    import fcntl
except ImportError:  # Windows has no POSIX locks: there a run folder is not locked
    fcntl = None

logger = logging.getLogger(__name__)
CONFIG, LABELS, METRICS, LOCK = "config.json", "labels.txt", "metrics.jsonl", "run.lock"


class RunLock(contextlib.AbstractContextManager):
    """Locks a run folder, so that only one process writes in it.

    A POSIX record lock: the system releases it when the process ends for any reason, and child
    processes do not inherit it. The file holds the pid and host of the owner.

    Raises:
        ValueError: another process has the lock; names its pid and host.
    """

    def __init__(self, run: Path):
        self._file = open(run / LOCK, "a+", encoding="utf-8", opener=own_only)  # noqa: SIM115  held while it runs
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

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()


def read_config(run: Path) -> dict:
    """Read config.json.

    Raises:
        ValueError: the file is missing, or has another format than this toolkit writes.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ValueError(f"{run}: no run there (looked for {CONFIG} and checkpoint_epoch_*.pt)")
    config = read_json(path)
    check_config(config, where=path)
    return config


def write_config(run: Path, config: dict) -> None:
    """Write labels.txt, then config.json; a folder with config.json is a run."""
    names = ["BACKGROUND", *(printable(item["name"]) for item in config["classes"])]
    write_atomically(run / LABELS, ("\n".join(names) + "\n").encode())
    write_atomically(run / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def remove_leftovers(run: Path) -> None:
    """Remove the temporary checkpoints of a killed process of this run.

    Those of its other files go when they are written again.
    """
    remove_abandoned(run, lambda name: name in (LAST, BEST) or bool(position_of(Path(name))))


def repair_links(run: Path, newest: Path, *, best_epoch: int | None) -> None:
    """Make checkpoint_last.pt and checkpoint_best.pt links to the right files again.

    They are out of date after a kill between a checkpoint and its links, and after a return to an
    older checkpoint.
    """
    link_or_copy(newest, run / LAST)
    best = epoch_path(run, best_epoch) if best_epoch else None
    if best is not None and best.is_file():
        link_or_copy(best, run / BEST)


def set_aside_later(run: Path, *, position: tuple[int, ...], best_epoch: int | None) -> Path | None:
    """Move the checkpoints after `position` into a new folder, with a copy of the metrics.

    Used when a run returns to an older checkpoint. Otherwise the next --resume would continue from
    the newest checkpoint, which the user wants to undo. The newest is moved first, so that the run
    can be resumed at any moment.

    Args:
        run: the run folder.
        position: of the older checkpoint, from `position_of`.
        best_epoch: the best epoch up to `position`; None: there was none, so checkpoint_best.pt is
            of a later epoch and is moved too.

    Returns:
        The new folder, or None if there is no later checkpoint.
    """
    later = [path for path in list_checkpoints(run) if position_of(path) > position]
    if not later:
        return None
    number = 1
    while (folder := run / f"set_aside_{number}").exists():
        number += 1
    folder.mkdir()
    if (run / METRICS).is_file():
        write_atomically(folder / METRICS, read_regular(run / METRICS))
    if best_epoch is None and (run / BEST).exists():
        later.append(run / BEST)
    for path in later:
        os.replace(path, folder / path.name)
    sync_folder(folder)
    sync_folder(run)
    return folder


def obsolete_checkpoints(
    run: Path, *, epoch: int, best_epoch: int | None, keep_last: int
) -> list[Path]:
    """Return the checkpoints that may be removed once the one of `epoch` is on disk.

    Those are the ones inside an epoch, up to this epoch; and, with `keep_last` K > 0, those of all
    epochs but the newest K and the best.
    """
    obsolete, num_epochs = [], 0
    for path in list_checkpoints(run):
        number, is_done, _ = position_of(path)
        if number > epoch:
            continue
        num_epochs += is_done
        if not is_done or (keep_last and num_epochs > keep_last and number != best_epoch):
            obsolete.append(path)
    return obsolete
