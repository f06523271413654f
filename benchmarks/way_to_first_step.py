"""What a reader passes between a command line and the first optimizer step.

    python benchmarks/way_to_first_step.py
    python benchmarks/way_to_first_step.py -- --dataset my-data --net mb1-ssd --workers 0 ...

A run of train_ssd.py on drawn data, of one epoch in one process, is watched until it takes its
first step. Each function of the project that is entered is listed once, in the order of the first
calls, with the number of its calls, and indented by its depth. What stands behind `--` is given to
train_ssd.py instead. Not counted: comprehensions, what an import runs, other threads.
"""

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import train_ssd  # noqa: E402
from vision.datasets.sample import write_sample_dataset  # noqa: E402

RUN = ("training", "engine", "runs", "evaluation", "report")  # folders of what a run is made of


class FirstStep(Exception):
    """Ends the run."""


class Watcher:
    """For sys.setprofile: counts calls and returns of the project's functions."""

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()
        self.depths: dict[CodeType, int] = {}
        self.num_returns = self.depth = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Count one event."""
        code = frame.f_code
        if event not in ("call", "return") or code.co_name.startswith("<"):
            return
        path = Path(code.co_filename)
        if path == Path(__file__) or not path.is_relative_to(ROOT) or ".venv" in path.parts:
            return
        if event == "call":
            self.calls[code] += 1
            self.depths.setdefault(code, self.depth)
            self.depth += 1
        else:
            self.num_returns += 1
            self.depth -= 1


def watch(flags: list[str]) -> Watcher:
    """Run train_ssd.py up to its first optimizer step."""

    def stop(*_: object, **__: object) -> None:
        sys.setprofile(None)
        raise FirstStep

    for optimizer in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD):
        optimizer.step = stop
    watcher = Watcher()
    sys.setprofile(watcher)
    with contextlib.suppress(FirstStep):
        train_ssd.main(flags)
    return watcher


def part_of(code: CodeType) -> str:
    """Say what a function is about: the run, or a folder of what a run uses."""
    place = Path(code.co_filename).relative_to(ROOT).parts
    if len(place) < 3 or place[1] in RUN:  # a script, vision/args.py and the like
        return "the run"
    return place[1]


def main(argv: list[str] | None = None) -> int:
    """Print the functions in order, and their number by folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("flags", nargs="*", help="of train_ssd.py")
    flags = parser.parse_args(argv).flags
    with tempfile.TemporaryDirectory() as folder:
        if not flags:
            write_sample_dataset(f"{folder}/data", num_train=8, num_val=4)
            flags = ["--dataset", f"{folder}/data", "--net", "mb2-ssd-lite", "--epochs", "1"]
            flags += ["--batch-size", "4", "--workers", "0", "--checkpoint-folder", f"{folder}/run"]
        watcher = watch(flags)
    for code, count in watcher.calls.items():
        where = f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_firstlineno}"
        print(f"{count:5}  {'  ' * watcher.depths[code]}{code.co_qualname}  {where}")
    parts = Counter(map(part_of, watcher.calls))
    print(", ".join(f"{name} {count}" for name, count in parts.most_common()))
    print(
        f"{len(watcher.calls)} functions in {len({code.co_filename for code in watcher.calls})} "
        f"files, {watcher.calls.total()} calls, {watcher.num_returns} returns"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
