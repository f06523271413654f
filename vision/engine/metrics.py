"""The metrics of a run: metrics.jsonl, and TensorBoard where it is asked for."""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from vision.engine import distributed
from vision.files.atomic_file import write_atomically


def show_progress(batches: Iterable, title: str) -> tqdm:
    """Iterate with a bar, on a terminal, of the first process."""
    disable = None if distributed.is_main_process() else True
    return tqdm(batches, desc=title, leave=False, disable=disable)


class MetricsLog:
    """One JSON object an epoch, a line each; the file is replaced whole, so it is never cut."""

    def __init__(self, path: Path, *, tensorboard: Path | None = None):
        """Read what is there.

        Raises:
            ValueError: the file is not what this class writes.
        """
        self.path = path
        self.records = self._read()
        self.writer = _summary_writer(tensorboard) if tensorboard else None

    def append(self, record: dict) -> None:
        """Add an epoch's record, in place of one of the same epoch.

        A record that could not be written, on a full disk, is written with the next one. Numbers
        that are not finite become null, as JSON has no word for them.
        """
        record = {name: None if _not_finite(value) else value for name, value in record.items()}
        self.records = [r for r in self.records if r["epoch"] < record["epoch"]] + [record]
        self._write()
        if self.writer:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.writer.add_scalar(name, value, record["epoch"])
            self.writer.flush()

    def keep_until(self, epoch: int) -> None:
        """Forget epochs after `epoch`: a resumed run does them again."""
        kept = [record for record in self.records if record["epoch"] <= epoch]
        if len(kept) < len(self.records):
            self.records = kept
            self._write()

    def _read(self) -> list[dict]:
        if not self.path.is_file():
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines if line.strip()]
            if not all(isinstance(record["epoch"], int) for record in records):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{self.path}: not the metrics of a run, one JSON object a line; it was edited: "
                "repair it, or move it away"
            ) from None
        return records

    def content(self) -> bytes:
        """Return what the file is to hold."""
        return "".join(json.dumps(record) + "\n" for record in self.records).encode()

    def _write(self) -> None:
        write_atomically(self.path, self.content())


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _summary_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard: install it first (pip install tensorboard)") from None
    return SummaryWriter(folder)


def peak_memory_mb() -> float:
    """Return the most memory this process has used, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
