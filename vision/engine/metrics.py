"""Metrics of a run: metrics.jsonl, progress bar, peak memory."""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
from tqdm import tqdm

from vision.engine import distributed
from vision.engine.loggers import Loggers
from vision.files.atomic_file import write_atomically
from vision.files.structured_text import read_json_lines

_LARGEST_EPOCH = 10**9  # as vision/args.py takes
NUMBER = int | float | str | None  # of an epoch's record; a logger's may be text


def show_progress(batches: Iterable, title: str) -> tqdm:
    """Iterate with a progress bar: on a terminal, in the main process."""
    disable = None if distributed.is_main_process() else True
    return tqdm(batches, desc=title, leave=False, disable=disable)


class MetricsLog:
    """metrics.jsonl: one line, a JSON object, for each epoch; the file is replaced as a whole."""

    def __init__(self, path: Path, *, loggers: Loggers | None = None):
        """Read the file if it exists.

        Args:
            path: of the file.
            loggers: get each record too.

        Raises:
            ValueError: the file has another format.
        """
        self.path = path
        self.records = _read_records(path) if path.is_file() else []
        self.loggers = loggers

    def append(self, record: dict) -> None:
        """Add an epoch's record, in place of those of the same epoch and of later ones.

        A record that could not be written, on a full disk, is written with the next one. Numbers
        that are not finite become null, since JSON cannot represent them.
        """
        record = {name: None if _not_finite(value) else value for name, value in record.items()}
        self.records = [r for r in self.records if r["epoch"] < record["epoch"]] + [record]
        self._write()
        if self.loggers:
            numbers = {name: x for name, x in record.items() if isinstance(x, (int, float))}
            self.loggers.log_numbers(numbers, numbers.pop("epoch"))

    def keep_until(self, epoch: int) -> None:
        """Delete the records of epochs after `epoch`, which a resumed run does again."""
        kept = [record for record in self.records if record["epoch"] <= epoch]
        if len(kept) < len(self.records):
            self.records = kept
            self._write()

    def content(self) -> bytes:
        """Return the content of the file."""
        return "".join(json.dumps(record) + "\n" for record in self.records).encode()

    def _write(self) -> None:
        write_atomically(self.path, self.content())


def _read_records(path: Path) -> list[dict]:
    try:
        records = msgspec.convert(read_json_lines(path), list[dict[str, NUMBER]])
        if not all(_is_epoch(record.get("epoch")) for record in records):
            raise ValueError("a line has no epoch from 1 on")
    except (ValueError, msgspec.ValidationError) as error:  # in old versions no ValueError
        raise ValueError(
            f"{path}: not the metrics of a run, one JSON object a line; it was edited "
            f"({error}): repair it, or move it away"
        ) from None
    return records


def _is_epoch(value: object) -> bool:
    return isinstance(value, int) and 0 < value <= _LARGEST_EPOCH


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process in MB; 0 where it is unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
