"""Calling a script's main in this process: its exit code, its results, its logs, its errors."""

import contextlib
import importlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

# A network and a recipe that train an epoch in a second.
FAST = [
    "--image-size=96", "--mb2-width-mult=0.25", "--epochs=1", "--batch-size=4", "--workers=0",
    "--threads=1", "--precision=fp32", "--no-report", "--priors=default",
]  # fmt: skip


@dataclass
class Run:
    """What a script did; `errors` are the lines on stderr that are no log lines."""

    code: int
    out: str
    err: str
    errors: list[str]


def call(script: str, *argv: object) -> Run:
    """Run `script` (without .py) as `main(argv)`; an exception that leaves it is a failure."""
    module = importlib.import_module(script)
    out, err, records = io.StringIO(), io.StringIO(), _Records()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [logging.getLogger(name) for name in ("vision", script, "train_ssd")]
    for logger in loggers:
        logger.addHandler(records)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = module.main([str(item) for item in argv])
    except SystemExit as exit_info:
        code = exit_info.code
    finally:
        for logger in loggers:
            logger.removeHandler(records)
        root.handlers[:] = handlers
        root.setLevel(level)
    logged = {line for message in records.messages for line in message.splitlines()}
    lines = [line for line in err.getvalue().splitlines() if line not in logged]
    return Run(code, out.getvalue(), err.getvalue(), lines)


class _Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def tree(root: Path) -> dict[str, object]:
    """Every folder below a folder, and every file: its content or, if large, its size and time."""
    return {path.relative_to(root).as_posix(): _state(path) for path in sorted(root.rglob("*"))}


def _state(path: Path) -> object:
    if path.is_dir():
        return None
    stat = path.stat()
    return path.read_bytes() if stat.st_size < 1e6 else (stat.st_size, stat.st_mtime_ns)
