#!/usr/bin/env python3
"""Rows of docs/recipes.md: trains each recipe with several seeds, and prints what came out.

    python benchmarks/recipes.py --data cells finetune_dataset --base-net mobilenet_v2.pth \
        --output runs/recipes
    ... --data foda foda-mini --epochs 6 --rows before fpn --seeds 0 1 2
    ... --data person coco-mini --only person        # one class; the others' boxes are left out
    ... --data objects coco-mini --only one-class    # all classes as one
    ... --data large coco-mini --only large-objects  # those of 110 px and more, the others ignored

Runs that are done are not repeated, so rows and seeds can be added. Each run has one thread, so two
of these commands with other rows fill two cores. AP is of the last epoch, on the val split; ms are
of the network alone in onnxruntime, one thread, one image, the networks in turn.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import mean, median

import onnxruntime
import torch
from interleaved import measure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vision.deploy.onnx_file import export_onnx
from vision.report.inputs import describe_network
from vision.runs.load_model import load_for_inference

ROOT = Path(__file__).resolve().parent.parent
FPN = ("--net", "mb2-ssd-lite-fpn")
ROWS = {
    # the defaults before priors were fitted, and before box voting
    "before": (
        *("--net", "mb2-ssd-lite", "--priors", "default", "--lr", "0.002"),
        *("--augmentation", "ssd", "--box-voting", "0"),
    ),
    "mb2": ("--net", "mb2-ssd-lite"),
    "mb2-fit": ("--net", "mb2-ssd-lite", "--priors", "fit"),
    "fpn": FPN,
    "fpn-fit": (*FPN, "--priors", "fit"),
    "fpn-ema": (*FPN, "--ema", "0.99"),
    "fpn-base-rate": (*FPN, "--base-net-lr", "0.001"),
    "fpn-384": (*FPN, "--image-size", "384"),
}
SUBSETS = {"person": "person", "one-class": "object", "large-objects": "object"}  # and its class
LARGE = 110  # square root of a box's area in pixels, in an image of 300 px
SIZES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> int:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs=2, metavar=("NAME", "FOLDER"), required=True)
    parser.add_argument("--only", choices=tuple(SUBSETS), help="of a COCO folder")
    parser.add_argument("--base-net", required=True, help="weights of MobileNetV2")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=("before", "mb2", "fpn"))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("--costs", action="store_true", help="measure MACs and milliseconds")
    args = parser.parse_args()
    folder = Path(args.data[1])
    data = ["--datasets", str(folder)]
    if args.only:
        data = write_subset(folder, args.output / "data" / args.only, args.only)
    for seed in args.seeds:
        for row in args.rows:
            run = run_folder(args, row, seed)
            if not args.table_only and not is_finished(run, args.epochs):
                train(run, [*data, *ROWS[row]], seed=seed, epochs=args.epochs, args=args)
    print_table(args)
    if args.costs:
        print_costs({row: run_folder(args, row, args.seeds[0]) for row in args.rows})
    return 0


def write_subset(folder: Path, output: Path, only: str) -> list[str]:
    """Write COCO's annotations with one class; return the flags that name them."""
    output.mkdir(parents=True, exist_ok=True)
    flags = []
    for split in ("train", "val"):
        path = folder / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        if only == "person":
            ids = {item["id"] for item in content["categories"] if item["name"] == "person"}
            rows = [row for row in content["annotations"] if row["category_id"] in ids]
            content["annotations"] = rows
        elif only == "large-objects":
            ignore_small(content)
        content["annotations"] = [row | {"category_id": 1} for row in content["annotations"]]
        content["categories"] = [{"id": 1, "name": SUBSETS[only]}]
        changed = output / path.name
        changed.write_text(json.dumps(content), encoding="utf-8")
        flags += [f"--{split}-json", str(changed)]
        flags += [f"--{split}-images", str(folder / f"{split}2017")]
    return flags


def ignore_small(content: dict) -> None:
    """Mark boxes that are not large as crowds; leave out images that have no other."""
    areas = {image["id"]: image["width"] * image["height"] for image in content["images"]}
    large = set()
    for row in content["annotations"]:
        share = row["bbox"][2] * row["bbox"][3] / areas[row["image_id"]]
        if 300 * share**0.5 < LARGE:
            row["iscrowd"] = 1
        elif not row["iscrowd"]:
            large.add(row["image_id"])
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [item for item in content[key] if item[name] in large]


def run_folder(args: argparse.Namespace, row: str, seed: int) -> Path:
    """Return where the run of a row and a seed is."""
    return args.output / f"{args.data[0]}-{args.epochs}-{row}-{seed}"


def is_finished(run: Path, epochs: int) -> bool:
    """Tell whether the run has its last epoch's validation."""
    found = read_metrics(run)
    return bool(found) and found[-1]["epoch"] == epochs and "AP" in found[-1]


def read_metrics(run: Path) -> list[dict]:
    """Return the lines of metrics.jsonl; none where there is no such file."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train(run: Path, flags: list[str], *, seed: int, epochs: int, args: argparse.Namespace) -> None:
    """Train, or go on with a run that was stopped."""
    command = [sys.executable, str(ROOT / "train_ssd.py")]
    if (run / "config.json").is_file():
        command += ["--resume", str(run)]
    else:
        command += ["--checkpoint-folder", str(run), "--base-net", args.base_net, "--threads", "1"]
        command += ["--workers", "0", "--cache", "ram", "--batch-size", "16", "--eval-every", "0"]
        command += ["--keep-last", "1", "--no-report", "--epochs", str(epochs), "--seed", str(seed)]
        if "--image-size" not in flags:
            command += ["--image-size", "300"]
        command += flags
    print("$", *command, flush=True)
    subprocess.run(command, check=True)


def print_table(args: argparse.Namespace) -> None:
    """Print a line of Markdown for each row: means over the seeds that are done."""
    print(f"| {args.data[0]} | seeds | {' | '.join(SIZES)} | AP of each seed | s |")
    print("| --- " * (len(SIZES) + 4) + "|")
    for row in args.rows:
        runs = [run_folder(args, row, seed) for seed in args.seeds]
        found = [read_metrics(run) for run in runs if is_finished(run, args.epochs)]
        if not found:
            continue
        last = [lines[-1] for lines in found]
        values = [mean_of([line[key] for line in last]) for key in SIZES]
        each = ", ".join(f"{line['AP']:.3f}" for line in last)
        seconds = median(sum(line["seconds"] for line in lines) for lines in found)
        print(f"| {row} | {len(last)} | {' | '.join(values)} | {each} | {seconds:.0f} |")


def mean_of(values: list[float | None]) -> str:
    """Return the mean; a dash where the val split has no box of that size."""
    return "-" if None in values else f"{mean(values):.3f}"


def print_costs(runs: dict[str, Path]) -> None:
    """Print the multiply-adds and the milliseconds of each row's network."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    macs, tasks = {}, {}
    for row, run in runs.items():
        model = load_for_inference(run)[0]
        macs[row] = describe_network(model).macs
        image = torch.zeros(1, 3, *model.image_size)
        names = ["cls_logits", "bbox_regression"]
        graph = export_onnx(model, image, input_name="x", output_names=names)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        tasks[row] = partial(session.run, None, {"x": image.numpy()})
    for row, seconds in measure(tasks, 50).items():
        print(f"| {row} | {macs[row] / 1e9:.2f} G | {1000 * median(seconds):.1f} ms |")


if __name__ == "__main__":
    raise SystemExit(main())
