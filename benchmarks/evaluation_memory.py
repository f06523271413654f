#!/usr/bin/env python3
"""Memory and time of eval_ssd.py on a data set of COCO val's size.

    python benchmarks/evaluation_memory.py [--images 5000] [--workers 1] [--evaluators fast]

5,000 images (links to drawn ones), 36,700 boxes of 80 classes, and an untrained mb2-ssd-lite, which
gives 100 detections in every image. Runs eval_ssd.py as a user does, once with each evaluator, and
compares the written files. Prints the seconds of each stage, and the peak memory of all processes
together (PSS, which counts a shared page once) and of the main process (RSS). The peer is
pycocotools on the same detections. Wanted: under 1.5 GB.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from make_coco_sized_json import CATEGORY_IDS, link_images, write_coco_sized_json
from process_memory import peak_rss, total_pss, tree_memory

from vision.ssd.models import build_model

ROOT = Path(__file__).resolve().parent.parent
NET = "mb2-ssd-lite"
LIMIT_MB = 1500


def main(argv: list[str] | None = None) -> int:
    """Evaluate with each evaluator and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", default="fp32", help="of eval_ssd.py")
    parser.add_argument("--evaluators", nargs="+", default=["fast", "pycocotools"])
    args = parser.parse_args(argv)
    peaks, results = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "eval_ssd.py"), *prepare(Path(folder), args.images)]
        command += ["--workers", str(args.workers), "--precision", args.precision]
        for name in args.evaluators:
            output = Path(folder, name)
            print(f"eval_ssd.py --evaluator {name}, {args.workers} workers, {args.precision}:")
            peaks[name] = evaluate([*command, "--evaluator", name, "--output-dir", str(output)])
            files = sorted(output.iterdir())
            results[name] = [path.read_bytes() for path in files]
    first = args.evaluators[0]
    for name in args.evaluators[1:]:
        same = "the same" if results[name] == results[first] else "different"
        print(f"{name} wrote {same} metrics.json and detections.json as {first}")
        print(f"{first} over {name}: {peaks[first] / peaks[name]:.2f} of the memory")
    print(f"{first}: {peaks[first]:.0f} MB, {peaks[first] / LIMIT_MB:.2f} of {LIMIT_MB} MB")
    return 0


def prepare(folder: Path, num_images: int) -> list[str]:
    """Write data set, weights and labels; return the arguments for them."""
    annotation_file = folder / "annotations" / "instances_val2017.json"
    write_coco_sized_json(annotation_file, num_images=num_images)
    link_images(annotation_file, folder / "val2017")
    torch.manual_seed(0)
    weights, labels = folder / "weights.pth", folder / "labels.txt"
    torch.save(build_model(NET, num_classes=len(CATEGORY_IDS) + 1).state_dict(), weights)
    names = ["BACKGROUND", *(f"class {number}" for number in CATEGORY_IDS)]
    labels.write_text("\n".join(names) + "\n")
    return ["--dataset", str(folder), "--trained-model", str(weights),
            "--net", NET, "--label-file", str(labels)]  # fmt: skip


def evaluate(command: list[str]) -> float:
    """Run one evaluation; return the peak memory of all its processes together, in MB."""
    peak = main_peak = 0.0
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peak = max(peak, total_pss(tree_memory(process.pid)))
            main_peak = max(main_peak, peak_rss(process.pid))
            time.sleep(0.1)
        log = process.stderr.read()
    if process.returncode:
        raise SystemExit(log)
    stages = next(line for line in log.splitlines() if " detections; " in line)
    print(f"  {stages}; {time.perf_counter() - start:.1f} s in all")
    print(f"  at most {peak:.0f} MB in all; the main process {main_peak:.0f} MB", flush=True)
    return peak


if __name__ == "__main__":
    raise SystemExit(main())
