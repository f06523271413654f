"""--profile: a trace of a few training steps, and one line that says what limits the speed."""

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, schedule

from vision.files.atomic_file import temporary_path, write_atomically

logger = logging.getLogger(__name__)
TRACE = "profile_trace.json"
MAX_DATA_WAIT, MAX_EVAL_SHARE = 0.1, 0.3  # of an epoch; more of it limits the speed


class StepProfiler:
    """Traces steps 4 to 8; chrome://tracing, Perfetto or TensorBoard show the file.

    Args:
        run: folder for profile_trace.json.
        precision: that of the steps, for the advice.
    """

    def __init__(self, run: Path, *, precision: str):
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.path = run / TRACE
        self._precision = precision
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=schedule(wait=2, warmup=1, active=5, repeat=1),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def after_step(self) -> None:
        """Count a training step."""
        self._profiler.step()

    def after_epoch(self, record: dict) -> None:
        """Log what limited the epoch with these metrics, and stop tracing."""
        logger.info(limit_line(record, precision=self._precision))
        self._profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        temporary = temporary_path(self.path)
        profiler.export_chrome_trace(str(temporary))
        trace = temporary.read_bytes()
        temporary.unlink()
        write_atomically(self.path, trace)
        logger.info("%s: a trace for chrome://tracing or ui.perfetto.dev", self.path)


def limit_line(record: dict, *, precision: str) -> str:
    """Say in one line what limits the speed of the run, and which flag would help.

    Args:
        record: an epoch's metrics: `data_wait`, `step_share`, `eval_share`, each 0..1.
        precision: that of the steps.
    """
    if record["data_wait"] > MAX_DATA_WAIT:
        return (
            f"data limits this run: {record['data_wait']:.0%} of the time is spent waiting for "
            "it; raise --workers while cores are idle, or keep decoded images with --cache ram"
        )
    if record["eval_share"] > MAX_EVAL_SHARE:
        return (
            f"evaluation limits this run: {record['eval_share']:.0%} of the time; "
            "validate less often with --eval-every"
        )
    faster = "--precision bf16 where the hardware has it, " if precision == "fp32" else ""
    return (
        f"compute limits this run: {record['step_share']:.0%} of the time goes to the network's "
        f"steps; {faster}a smaller --image-size, --freeze-base-net, or more processes (torchrun)"
    )
