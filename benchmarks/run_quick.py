#!/usr/bin/env python3
"""Run the quick benchmarks on drawn images, and write their output to RESULTS.md.

    make bench
    python benchmarks/run_quick.py loader.py      # some of them; RESULTS.md is not changed

The long benchmarks, and those on real images, are run by hand; their figures are in the first part
of RESULTS.md.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import torch
import torchvision

from vision.datasets.sample import write_sample_dataset
from vision.files.atomic_file import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
START, END = "<!-- quick: written by `make bench` -->", "<!-- end of quick -->"
DATA = "DATA"  # stands for the folder of drawn images
COMMANDS = (
    ("training_loop.py", "--datasets", DATA),
    ("matching_loss.py",),
    ("loader.py", "--datasets", DATA),
    ("postprocess.py",),
    ("inference.py",),
    ("convert_yolo.py", "--files", "10000"),
)


def main(argv: list[str] | None = None) -> int:
    """Run each benchmark in a process of its own; fail if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [command[0] for command in COMMANDS]
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    only = parser.parse_args(argv).only
    if unknown := set(only) - set(names):
        parser.error(f"no quick benchmark {', '.join(sorted(unknown))}")
    sections = [f"{_machine()}, {datetime.date.today().isoformat()}\n"]
    with tempfile.TemporaryDirectory() as folder:
        write_sample_dataset(folder)
        for command in (c for c in COMMANDS if not only or c[0] in only):
            arguments = [folder if argument == DATA else argument for argument in command[1:]]
            print(f"$ python benchmarks/{' '.join(command)}", flush=True)
            result = subprocess.run(
                [sys.executable, str(ROOT / "benchmarks" / command[0]), *arguments],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            print(result.stdout, flush=True)
            if result.returncode:
                print(f"error: {command[0]} failed", file=sys.stderr)
                return 1
            sections.append(f"    $ python benchmarks/{' '.join(command)}")
            sections += [f"    {line}" for line in result.stdout.splitlines()]
            sections.append("")
    if only:
        return 0
    text = RESULTS.read_text(encoding="utf-8")
    head, tail = text.split(START)[0], text.split(END)[1]
    content = "\n".join(sections).rstrip()
    write_atomically(RESULTS, f"{head}{START}\n\n{content}\n\n{END}{tail}".encode())
    return 0


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].split(": ")[1] if lines else model
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{os.cpu_count()} cores of {model}; {versions}, OpenCV {cv2.__version__}"


if __name__ == "__main__":
    raise SystemExit(main())
