"""On SIGINT or SIGTERM: finish the step, save, exit."""

import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType

from vision.datasets.loader import Batch, DetectionLoader
from vision.engine import distributed

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """Training stopped because of a signal; ends the program with exit code 128 + signal."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signal_name = signal.Signals(signum).name


class StoppableLoader:
    """A loader that checks the signals before each batch.

    `check` communicates, so every process must call it equally often: a process that has fewer
    batches than another calls it for the missing ones at the end.
    """

    def __init__(self, loader: DetectionLoader, signals: "StopSignals"):
        self._loader = loader
        self._signals = signals
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self._signals.check()
            yield batch
        for _ in range(self._loader.sampler.num_rounds - len(self._loader)):
            self._signals.check()


class StopSignals:
    """Catches SIGINT and SIGTERM inside a `with` block; a second SIGINT ends the process at once.

    Attributes:
        received: the number of the signal, None before one comes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raise Interrupted if any process got a signal; it raises in all of them at this call."""
        signum = distributed.all_reduce_max(self.received or 0)
        if signum:
            raise Interrupted(signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            os.write(2, b"\nstopped at once; the checkpoints on disk are intact\n")
            os._exit(128 + signum)
        self.received = signum
        logger.warning("%s: finishing this step, then saving", signal.Signals(signum).name)
