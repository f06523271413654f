"""Fixing a COCO-sized annotation file: time and peak memory, compared with orjson.

    python benchmarks/fix_annotations.py

Ours is fix_coco_annotations.py as a user runs it: it checks and repairs the file, keeps the
original, and flushes to the disk. The peer, in the same run, decodes the whole file with orjson,
renumbers the categories and writes the text, without checks or flush. make_coco_sized_json.py makes
the file; --file uses another. --shares also measures files of which 0.1, 1, 50 and 100 % of the
annotations lack iscrowd, against the clean one in the same run.
"""

import argparse
import importlib.util
import multiprocessing
import os
import random
import re
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


def without_iscrowd(source: Path, target: Path, share: float) -> None:
    """Copy an annotation file, and take iscrowd out of a share of its annotations."""
    rng = random.Random(0)
    text = source.read_bytes()
    pattern = rb'"iscrowd": ?0, ?'
    target.write_bytes(re.sub(pattern, lambda m: b"" if rng.random() < share else m[0], text))


def measure_shares(source: Path, folder: Path, repeat: int) -> None:
    """Print the processor-bound time of the fixer over the share of annotations that it repairs."""
    clean = None
    for share in (0, 0.001, 0.01, 0.5, 1):
        broken = folder / "broken.json"
        # In a process of its own, whose memory would count as the fixer's otherwise.
        copying = multiprocessing.Process(target=without_iscrowd, args=(source, broken, share))
        copying.start()
        copying.join()
        path = folder / "shares/annotations/instances_train2017.json"
        runs = []
        for _ in range(repeat):
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            shutil.copyfile(broken, path)
            runs.append(measure(FIXER, "--path", path.parent.parent))
        clean = clean or median(runs)[0]
        seconds, megabytes = median(runs)
        print(
            f"{share:.1%} repaired: {seconds:.1f} s, {seconds / clean:.2f} of the clean file's, "
            f"{megabytes:.0f} MB"
        )


def main(argv: list[str] | None = None) -> int:
    """Print seconds and memory of the repair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="an instances file to copy and fix")
    parser.add_argument("--shares", action="store_true", help="also files that need repairs")
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
        if arguments.shares:
            measure_shares(source, Path(folder), arguments.repeat)
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
    """Print one line of the table."""
    seconds, peak = median(runs)
    slowest = max(runs)[0]
    print(f"{name}: {seconds:.2f} s (slowest of {len(runs)}: {slowest:.2f}), peak {peak:.0f} MB")


if __name__ == "__main__":
    raise SystemExit(main())
