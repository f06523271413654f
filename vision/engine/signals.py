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
    """A signal has stopped training; ends the program with exit code 128 + signal."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signal_name = signal.Signals(signum).name


class Interruptible:
    """A loader that looks at the signals before each batch.

    Of several processes each calls it as often as the one that has the most batches.
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
    """Remembers a SIGINT or SIGTERM while active; the second SIGINT ends the process at once."""

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
        """Raise Interrupted if a signal came, in all processes at the same call."""
        signum = distributed.all_reduce_max(self.received or 0)
        if signum:
            raise Interrupted(signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            os.write(2, b"\nstopped at once; the checkpoints on disk are intact\n")
            os._exit(128 + signum)
        self.received = signum
        logger.warning("%s: finishing this step, then saving", signal.Signals(signum).name)
