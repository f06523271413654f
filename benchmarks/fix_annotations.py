"""Fixing a COCO-sized annotation file: time and peak memory, compared with orjson.

    python benchmarks/fix_annotations.py

Ours is fix_coco_annotations.py as a user runs it: it checks and repairs the file, keeps the
original, and flushes to the disk. The peer, in the same run, decodes the whole file with orjson,
renumbers the categories and writes the text, without checks or flush. make_coco_sized_json.py makes
the file; --file uses another.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = ROOT / "benchmarks" / "make_coco_sized_json.py"
FIXER = ROOT / "fix_coco_annotations.py"

PEER = """
import sys, orjson
with open(sys.argv[1], "rb") as file:
    document = orjson.loads(file.read())
new_id = {}
for new, category in enumerate(sorted(document["categories"], key=lambda c: c["id"])):
    new_id[category["id"]] = new
    category["original_id"], category["id"] = category["id"], new
for annotation in document["annotations"]:
    annotation["category_id"] = new_id[annotation["category_id"]]
with open(sys.argv[1] + ".orjson", "wb") as file:
    file.write(orjson.dumps(document))
"""


def measure(*command: str | Path) -> tuple[float, float]:
    """Run a command; return its seconds and its peak resident memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{command[0]} failed with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="an instances file to copy and fix")
    parser.add_argument("--repeat", type=int, default=3, help="runs; the median is reported")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "annotations", "instances_train2017.json")
        source = arguments.file or Path(folder, "made.json")
        if not arguments.file:
            measure(GENERATOR, "--output", source)
        print(f"{source.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        ours, second, peers = [], [], []
        for _ in range(arguments.repeat):
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir()
            shutil.copyfile(source, path)
            ours.append(measure(FIXER, "--path", folder))
            second.append(measure(FIXER, "--path", folder))
            if importlib.util.find_spec("orjson"):
                peers.append(measure("-c", PEER, source))
    report("fix_coco_annotations.py", ours)
    report("the same, run again (nothing to do)", second)
    if not peers:
        print("orjson is not installed: no peer")
        return 0
    report("orjson, whole file", peers)
    ratios = [median(peers)[i] / median(ours)[i] for i in range(2)]
    print(f"against orjson: {ratios[0]:.1f} times as fast, {ratios[1]:.1f} times less memory")
    return 0


def median(runs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the run with the median seconds."""
    return sorted(runs)[len(runs) // 2]


def report(name: str, runs: list[tuple[float, float]]) -> None:
    seconds, peak = median(runs)
    slowest = max(runs)[0]
    print(f"{name}: {seconds:.2f} s (slowest of {len(runs)}: {slowest:.2f}), peak {peak:.0f} MB")


if __name__ == "__main__":
    raise SystemExit(main())
