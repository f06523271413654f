"""The metrics of a run: metrics.jsonl, and TensorBoard where it is asked for."""

import json
import sys
from pathlib import Path

from vision.datasets.atomic_file import write_atomically


class MetricsLog:
    """One JSON object an epoch, a line each; the file is replaced whole, so it is never cut."""

    def __init__(self, path: Path, *, tensorboard: Path | None = None):
        self.path = path
        self.writer = _summary_writer(tensorboard) if tensorboard else None

    def read(self) -> list[dict]:
        """Return the records so far."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]

    def append(self, record: dict) -> None:
        """Add an epoch's record, in place of one of the same epoch."""
        self._write([r for r in self.read() if r["epoch"] < record["epoch"]] + [record])
        if self.writer:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.writer.add_scalar(name, value, record["epoch"])
            self.writer.flush()

    def keep_until(self, epoch: int) -> None:
        """Forget epochs after `epoch`: a resumed run does them again."""
        records = self.read()
        kept = [record for record in records if record["epoch"] <= epoch]
        if len(kept) < len(records):
            self._write(kept)

    def _write(self, records: list[dict]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.path, text.encode())


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
