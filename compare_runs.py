#!/usr/bin/env python3
"""Compare runs: what differs in their settings, and which is better on the same val images.

    python compare_runs.py runs/a runs/b
    python compare_runs.py runs/a runs/b runs/c --html compared.html
    python compare_runs.py runs/a runs/b --dataset coco-data --split test --json

Each run's best checkpoint (or the checkpoint that is named) is evaluated on the val split of the
first run, and later runs are compared with the first by a bootstrap over the images that draws the
same ones for both: "b is better than a by 0.021 AP (95 %: 0.006 to 0.035)", or "no difference can
be told from 87 images". Runs with other val images are refused. Exit code 0: compared; 1: failed
or not comparable, in one line; 2: wrong usage.
"""

from vision.installed import require

require("cv2", "msgspec", "numpy", "torch", "torchvision", "tqdm", "yaml")

import argparse
import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision.args import default_workers
from vision.command_line import FamilyParser, run_script, worker_count
from vision.data_flags import add_data_flags, check_data_flags, data_name, open_dataset
from vision.datasets.join_classes import source_with_classes
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.machine_limits import explain
from vision.engine.precision import choose_device
from vision.evaluation.bootstrap import NUM_RESAMPLES
from vision.evaluation.coco_boxes import Detections, ground_truth_from_index
from vision.evaluation.coco_eval import evaluate_boxes
from vision.evaluation.evaluate import evaluate
from vision.files.atomic_file import write_atomically
from vision.files.printable import printable
from vision.nn.cpu.optimize import optimize_for_inference
from vision.report.analysis import Analysis
from vision.report.comparison import (
    ComparedRun,
    as_json,
    build_page,
    check_comparable,
    compare_runs,
    text_lines,
)
from vision.report.inputs import Validation, describe_network, read_history
from vision.report.page import as_utf8
from vision.runs.load_model import load_for_inference
from vision.runs.run_folder import read_config
from vision.training.build import open_data
from vision.training.data import DataSplit, evaluation_loader
from vision.training.saved_args import read_saved_arguments

logger = logging.getLogger("compare_runs")


def main(argv: list[str] | None = None) -> int:
    """Compare; return the exit code."""
    parser = build_compare_parser(description=__doc__)
    args = parser.parse_args(argv)
    check_data_flags(parser, args, needed=False)
    if len(args.runs) < 2:
        parser.error("name two runs or more")
    if args.batch_size < 1 or args.workers < 0 or args.resamples < 20:
        parser.error("--batch-size must be 1 or more, --workers 0, --resamples 20")
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    return run_script(partial(run, args), explain=explain)


def build_compare_parser(**kwargs: Any) -> argparse.ArgumentParser:
    """Build the parser; `kwargs` go to ArgumentParser."""
    parser = FamilyParser(
        prog="compare_runs.py", formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folders, or checkpoints in them")
    add_data_flags(parser, " to evaluate on, instead of the first run's val split")
    add("--split", default="val", metavar="NAME", help="split of --dataset")
    add("--json", action="store_true", help="print everything as JSON instead of the table")
    add("--html", metavar="FILE", help="also write a page with curves and tables")
    add("--resamples", type=int, default=NUM_RESAMPLES, metavar="N",
        help="resamples of the bootstrap")  # fmt: skip
    add("--batch-size", type=int, default=16, metavar="N", help="images in a forward pass")
    add("--workers", "--num-workers", type=worker_count, default=default_workers(), metavar="N",
        help="processes that load images; 0 loads in this one")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    return parser


def run(args: argparse.Namespace) -> None:
    """Check, evaluate, compare, print."""
    folders = [run_folder(Path(path)) for path in args.runs]
    configs = [read_config(folder) for folder in folders]
    names = short_names(args.runs)
    val, where = open_val(args, configs[0], args.runs[0])
    if not data_name(args):
        check_val_data(configs, names, val, where)
    classes = class_names(configs[0])
    runs = [
        ComparedRun(name, measure(args, path, val, where, classes), read_history(folder))
        for name, path, folder in zip(names, args.runs, folders, strict=True)
    ]
    comparisons = compare_runs(runs, num_resamples=args.resamples)
    if args.html:
        write_atomically(Path(args.html), as_utf8(build_page(runs, comparisons)))
        logger.info("%s: written", args.html)
    if args.json:
        print(json.dumps(as_json(runs, comparisons), indent=2))
    else:
        print(*map(printable, text_lines(runs, comparisons)), sep="\n")


def run_folder(path: Path) -> Path:
    """Return the run folder of a folder or of a checkpoint in one."""
    return path.parent if path.is_file() else path


def short_names(paths: list[str]) -> list[str]:
    """Return the ends of the paths that tell them apart."""
    parts = [Path(path).absolute().parts for path in paths]
    length = 1
    while len({item[-length:] for item in parts}) < len(set(parts)):
        length += 1
    return [os.path.join(*item[-length:]) for item in parts]


def open_val(args: argparse.Namespace, config: dict, run: str) -> tuple[DataSplit, str]:
    """Read the annotations that all runs are evaluated on, and say where they are."""
    if data_name(args):
        source = open_dataset(args, split=args.split).open(args.split)
        return DataSplit(args.split, [source]), data_name(args)
    data = open_data(read_saved_arguments(config["arguments"]))
    if not data.val.sources:
        raise ValueError(f"{run}: it has no val split; --dataset ROOT names one")
    return data.val, data.val_place


def check_val_data(configs: list[dict], names: list[str], val: DataSplit, where: str) -> None:
    """Refuse runs of other val images, and data that have changed since the first run."""
    check_comparable(configs, names)
    for name, config in list(zip(names, configs, strict=True))[1:]:
        if class_names(config) == class_names(configs[0]):
            continue  # in one order: check_comparable has compared them
        then, now = config.get("data", {}).get("val"), in_order(val, class_names(config))
        if then and then["sha256"] != now.fingerprint()["sha256"]:
            raise ValueError(
                f"{name} was validated on other images or boxes than {names[0]}; their AP cannot "
                "be compared. With --dataset ROOT all are evaluated on one data set"
            )
    now, then = val.fingerprint(), configs[0].get("data", {}).get("val")
    if then and then["sha256"] != now["sha256"]:
        raise ValueError(
            f"{where}: the val split has changed since {names[0]} was trained ({now['images']} "
            f"images with {now['boxes']} boxes, then {then['images']} with {then['boxes']}); with "
            f"--dataset {where} the runs are compared on what is there now"
        )


def in_order(split: DataSplit, classes: list[str]) -> DataSplit:
    """The same images and boxes, with the classes in another order."""
    return DataSplit(split.name, [source_with_classes(source, classes) for source in split.sources])


def class_names(config: dict) -> list[str]:
    """Names of labels 1..C of a run."""
    return [item["name"] for item in config["classes"]]


def measure(
    args: argparse.Namespace, path: str, val: DataSplit, where: str, common: list[str]
) -> Analysis:
    """Evaluate a run on the common images, and sort the classes as the first run does."""
    device = choose_device(args.device)
    model, classes, _ = load_for_inference(path)
    names = [item["name"] for item in classes]
    sources = in_order(val, names).sources
    loader = evaluation_loader(
        sources,
        image_size=model.image_size,
        resize=model.network.resize,
        tiles=model.network.tiles,
        batch_size=args.batch_size,
        num_workers=args.workers,
    )
    logger.info("%s: %d images at %dx%d", path, len(loader.dataset), *model.image_size)
    truth = ground_truth_from_index([index for index, _ in sources])
    network = describe_network(model)
    result = evaluate(
        optimize_for_inference(model).to(device, memory_format=torch.channels_last),
        loader,
        ground_truth=truth,
        class_names=names,
        device=device,
    )
    metrics, detections = result.metrics, result.detections
    if names != common:
        sources = in_order(val, common).sources
        truth = ground_truth_from_index([index for index, _ in sources])
        detections = relabelled(detections, names, common)
        metrics = evaluate_boxes(truth, detections, class_names=common)
    return Analysis(
        Validation(
            metrics=metrics,
            detections=detections,
            ground_truth=truth,
            class_names=common,
            network=network,
            sources=sources,
            weights=path,
            dataset=where,
        )
    )


def relabelled(detections: Detections, names: list[str], common: list[str]) -> Detections:
    """Turn labels of the classes `names` into those of `common`; what is not in it goes."""
    label_of = {name: label for label, name in enumerate(common, start=1)}
    labels = np.array([0, *(label_of.get(name, 0) for name in names)])[detections.labels]
    return replace(detections, labels=labels).take(labels > 0)


if __name__ == "__main__":
    raise SystemExit(main())
