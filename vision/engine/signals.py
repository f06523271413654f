"""On SIGINT, SIGTERM or at the end of the time: finish the step, save, exit."""

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

from vision.datasets.loader import Batch, DetectionLoader
from vision.engine import distributed

logger = logging.getLogger(__name__)
# Stands for a signal's number when the time is up; below those of SIGINT and SIGTERM, so that one
# of these counts where both have come.
_TIME_IS_UP = 1


class Interrupted(SystemExit):
    """Training stopped before its end; ends the program.

    Its exit code is 128 + signal, or 0 where the time was up.
    """

    def __init__(self, reason: int):
        self.is_time_up = reason == _TIME_IS_UP
        super().__init__(0 if self.is_time_up else 128 + reason)
        self.cause = "--max-hours" if self.is_time_up else signal.Signals(reason).name


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
        """Yield the batches.

        Raises:
            Interrupted: as `StopSignals.check`.
        """
        for batch in self._loader:
            self._signals.check()
            yield batch
        for _ in range(self._loader.sampler.num_rounds - len(self._loader)):
            self._signals.check()


@dataclass
class StopSignals:
    """Catches SIGINT and SIGTERM inside a `with` block; a second SIGINT ends the process at once.

    Attributes:
        stop_at: when the time is up, by `time.monotonic`.
        received: the number of the signal, None before one comes.
    """

    stop_at: float = math.inf
    received: int | None = None
    _previous: dict[int, object] = field(default_factory=dict)

    def __enter__(self) -> "StopSignals":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raise Interrupted if any process got a signal or its time is up.

        It raises in all processes at the same call.
        """
        is_time_up = time.monotonic() >= self.stop_at
        reason = distributed.all_reduce_max(self.received or (_TIME_IS_UP if is_time_up else 0))
        if reason:
            raise Interrupted(reason)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            os.write(2, b"\nstopped at once; the checkpoints on disk are intact\n")
            os._exit(128 + signum)
        self.received = signum
        logger.warning("%s: finishing this step, then saving", signal.Signals(signum).name)
