#!/usr/bin/env python3
"""Evaluate a trained detector on a split of a data set.

    python eval_ssd.py --trained-model runs/coco --dataset coco-data
    python eval_ssd.py --trained-model runs/coco/checkpoint_best.pt --dataset coco-data \\
        --split val --output-dir runs/coco/eval
    python eval_ssd.py --trained-model mb2-ssd-lite.pth --net mb2-ssd-lite \\
        --label-file labels.txt --dataset coco-data --json
    python eval_ssd.py --trained-model runs/cells --dataset finetune_dataset --split test
    python eval_ssd.py --trained-model torchvision --net ssdlite320-mb3-large --dataset coco-data
    python eval_ssd.py --trained-model exported/mb2-ssd-jetson.onnx --dataset finetune_dataset
    torchrun --nproc_per_node=2 eval_ssd.py --trained-model runs/coco --dataset coco-data

Prints the twelve COCO numbers, a line for each class and a summary; --output-dir DIR gets
metrics.json, detections.json (COCO's results format, in the ids of the annotation file; of a YOLO
folder, in those that convert_yolo_to_coco.py gives) and report.html: curves, where AP is lost,
pictures of errors, and what to try next.
"""

from vision.installed import require

require("cv2", "msgspec", "numpy", "torch", "torchvision", "tqdm", "yaml")

import argparse
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision.args import TILES, default_workers
from vision.command_line import (
    FamilyParser,
    check_shares,
    flag_of,
    image_size,
    run_script,
    worker_count,
)
from vision.data_flags import (
    add_data_flags,
    check_data_flags,
    data_name,
    data_words,
    open_dataset,
)
from vision.datasets.join_classes import source_with_classes
from vision.datasets.layouts.layout import Source
from vision.deploy import detect
from vision.deploy.detectnet import CLUSTERING, DetectNet
from vision.engine import distributed
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.machine_limits import explain
from vision.engine.precision import PRECISIONS, choose_device, choose_precision
from vision.evaluation.coco_boxes import Detections, GroundTruth, ground_truth_from_index
from vision.evaluation.coco_eval import EVALUATORS
from vision.evaluation.coco_results import detections_json, explain_nothing_found, metrics_table
from vision.evaluation.evaluate import EvaluationResult, evaluate
from vision.evaluation.exported import SCORE_THRESHOLD, measure, thresholded
from vision.files.atomic_file import write_atomically
from vision.files.printable import printable
from vision.nn.cpu.optimize import optimize_for_inference
from vision.report.analysis import Analysis
from vision.report.inputs import NetworkFacts, Validation, describe_network
from vision.report.report import write_report
from vision.report.summary import summary_lines
from vision.runs.load_model import load_for_inference
from vision.ssd.models import MODELS
from vision.ssd.network import RESIZES
from vision.ssd.ssd import SSD
from vision.ssd.torchvision_ssd import NamedClasses
from vision.training.data import DataSplit, check_same_for_all, evaluation_loader

logger = logging.getLogger("eval_ssd")
RUNTIMES = ("auto", "onnxruntime", "openvino", "ai_edge_litert", "detectnet")


def main(argv: list[str] | None = None) -> int:
    """Evaluate; return the exit code."""
    parser = build_eval_parser(description=__doc__)
    args = parser.parse_args(argv)
    args.command = ["./eval_ssd.py", *(sys.argv[1:] if argv is None else argv)]
    check_arguments(parser, args)
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    return run_script(partial(run, args), explain=explain)


def build_eval_parser(**kwargs: Any) -> argparse.ArgumentParser:
    """Build the parser of eval_ssd.py; `kwargs` go to ArgumentParser."""
    parser = FamilyParser(
        prog="eval_ssd.py", formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
    )
    add = parser.add_argument
    add("--trained-model", required=True, metavar="RUN_OR_FILE",
        help="run folder (its best checkpoint), checkpoint, family state dict, torchvision for "
        "its COCO weights of --net, or .onnx, .xml or .tflite file of export_ssd.py")  # fmt: skip
    add("--net", choices=tuple(MODELS), help="network, for a bare state dict or torchvision")
    add("--label-file", metavar="FILE", help="class names, for a bare state dict")
    add_data_flags(parser, "")
    add("--split", default="val", metavar="NAME", help="split to evaluate: val, test, train")
    add("--output-dir", "--eval-dir", metavar="DIR",
        help="gets metrics.json, detections.json and report.html")  # fmt: skip
    add("--image-size", "--resolution", type=image_size, metavar="SIZE",
        help="input in pixels, 300 or HEIGHTxWIDTH; default: as trained")  # fmt: skip
    add("--resize", choices=RESIZES,
        help="how images are brought to the input's size; point: one pixel each, as NVIDIA's "
        "detectNet does; default: as trained")  # fmt: skip
    add("--tiles", type=int, metavar="N",
        help="look at each image whole and in N x N overlapping tiles; default: as trained, of an "
        "exported file as exported")  # fmt: skip
    add("--batch-size", type=int, default=16, metavar="N", help="images in a forward pass")
    add("--workers", "--num-workers", type=worker_count, default=default_workers(), metavar="N",
        help="processes that load images; 0 loads in this one")  # fmt: skip
    add("--score-threshold", type=float, metavar="X",
        help="lowest score of a detection; default: the network's own")  # fmt: skip
    add("--iou-threshold", type=float, metavar="X",
        help="overlap above which the lower-scored of two boxes of a class goes; default: the "
        "network's own")  # fmt: skip
    add("--box-voting", type=float, metavar="IOU",
        help="move a detection to the mean of the boxes of its class with a higher IoU than this; "
        "0: do not; default: as trained")  # fmt: skip
    add("--runtime", choices=RUNTIMES, default="auto",
        help="of an exported file: its own, or detectNet's way with images and boxes; auto: "
        "detectnet for the target jetson")  # fmt: skip
    add("--clustering", type=float, metavar="X",
        help="detectNet's --clustering: share of the larger of two boxes that they must have in "
        "common to be merged; default: 0.75")  # fmt: skip
    add("--evaluator", choices=tuple(EVALUATORS), default="fast",
        help="same numbers from NumPy, or from pycocotools itself")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--precision", choices=PRECISIONS, default="fp32",
        help="number format of the forward pass; auto: bf16 where the hardware has it")  # fmt: skip
    add("--json", action="store_true", help="print metrics.json instead of the tables")
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse values that cannot work, naming the flag."""
    check_data_flags(parser, args)
    if args.val_split and args.split != "val":
        parser.error("--val-split FILE is the val split; leave --split out")
    if args.batch_size < 1:
        parser.error("--batch-size must be 1 or more")
    if args.tiles is not None and not TILES.holds(args.tiles):
        parser.error(f"--tiles must be {TILES.words}")
    if args.workers < 0:
        parser.error("--workers must be 0 or more")
    check_shares(parser, args, "score_threshold", "iou_threshold", "box_voting", "clustering")
    if is_exported(args):
        for name in ("iou_threshold", "box_voting", "image_size", "resize"):
            if getattr(args, name) is not None:
                flag = flag_of(name)
                parser.error(f"{flag}: an exported file has its own; give it to export_ssd.py")
    elif args.runtime != "auto" or args.clustering is not None:
        parser.error("--runtime and --clustering are about files of export_ssd.py")


def is_exported(args: argparse.Namespace) -> bool:
    """Whether the model is a file for another runtime."""
    return Path(args.trained_model).suffix.lower() in detect.RUNTIMES


def run(args: argparse.Namespace) -> None:
    """Be one of torchrun's processes, or the only one."""
    if is_exported(args):
        evaluate_file(args)
        return
    with distributed.process_group():
        evaluate_split(args)


def evaluate_split(args: argparse.Namespace) -> None:
    """Load model and data, evaluate, print, write."""
    distributed.set_threads()
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    model, classes, _ = load_for_inference(
        args.trained_model,
        net=args.net,
        label_file=args.label_file,
        image_size=args.image_size,
        tiles=args.tiles,
        box_voting=args.box_voting,
    )
    class_names = [item["name"] for item in classes]
    source = source_with_classes(open_source(args), class_names)
    if not len(source.index):
        raise ValueError(f"{source.index.annotation_file}: it lists no images")
    if distributed.world_size() > 1:
        check_same_for_all([DataSplit(args.split, [source])], model)
    ground_truth = ground_truth_from_index(source.index)
    network = describe_network(model)
    result = measure_model(
        args, model, source, ground_truth, class_names, device=device, precision=precision
    )
    if not result:  # in all processes but the main one
        return
    settings = model.network.postprocessing.changed(
        score_threshold=args.score_threshold, iou_threshold=args.iou_threshold
    )
    counted = thresholded(ground_truth, result.detections, score_threshold=threshold_of(args))
    validation = make_validation(
        args,
        class_names,
        metrics=result.metrics | counted,
        detections=result.detections,
        ground_truth=ground_truth,
        network=network,
        sources=[source],
        weights_flags=weights_flags(args),
        score_threshold=settings.score_threshold,
        iou_threshold=settings.iou_threshold,
        voting_iou=settings.voting_iou,
    )
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    logger.info("%d detections; %s", len(result.detections), spent)
    trained = Path(args.trained_model)
    report(
        args,
        validation,
        [category.category_id for category in source.index.categories],
        run=trained if trained.is_dir() else trained.parent,
        top_scores=result.top_scores,
    )


def measure_model(
    args: argparse.Namespace,
    model: SSD | NamedClasses,
    source: Source,
    ground_truth: GroundTruth,
    class_names: list[str],
    *,
    device: torch.device,
    precision: str,
) -> EvaluationResult | None:
    """Run a model over the images of a split; None in all processes but the main one."""
    tiles = model.network.tiles
    loader = evaluation_loader(
        [source],
        image_size=model.image_size,
        resize=args.resize or model.network.resize,
        tiles=tiles,
        batch_size=args.batch_size,
        num_workers=args.workers,
    )
    logger.info(
        "%d images at %dx%d%s, %d classes, on %s in %s; threads: %d, workers: %d",
        len(source.index), *model.image_size,
        f", whole and in {tiles}x{tiles} tiles" if tiles > 1 else "",
        len(class_names), device, precision, torch.get_num_threads(), args.workers,
    )  # fmt: skip
    return evaluate(
        optimize_for_inference(model).to(device, memory_format=torch.channels_last),
        loader,
        ground_truth=ground_truth,
        class_names=class_names,
        device=device,
        precision=precision,
        evaluator=args.evaluator,
        score_threshold=args.score_threshold,
        iou_threshold=args.iou_threshold,
    )


def evaluate_file(args: argparse.Namespace) -> None:
    """Measure an exported file on its own runtime, with its own way of resizing."""
    detector = detect.FileDetector(
        args.trained_model, threshold=args.score_threshold or 0.0, tiles=args.tiles
    )
    source = open_source(args)
    runtime, predict = choose_predictor(args, detector)
    result = measure(
        predict,
        source,
        detector.names[1:],
        score_threshold=threshold_of(args),
        evaluator=args.evaluator,
    )
    logger.info(
        "%s: %d images, %d detections, %.1f ms an image",
        runtime, len(source.index), len(result.detections), result.milliseconds,
    )  # fmt: skip
    network = NetworkFacts(
        detector.about["network"],
        tuple(detector.about["image_size"]),
        tiles=1 if runtime == "detectnet" else detector.tiles,
    )
    validation = make_validation(
        args,
        detector.names[1:],
        metrics=result.metrics,
        detections=result.detections,
        ground_truth=result.ground_truth,
        network=network,
        sources=[result.source],
        score_threshold=args.score_threshold or 0.0,
        iou_threshold=detector.about["iou_threshold"],
        voting_iou=detector.about["box_voting"],
    )
    report(args, validation, result.category_ids, run=None)


def choose_predictor(
    args: argparse.Namespace, detector: detect.FileDetector
) -> tuple[str, Callable[[np.ndarray], detect.Detections]]:
    """Return the runtime of --runtime, and what detects in uint8 [H, W, 3] RGB as it does.

    Raises:
        ValueError: the file is for another runtime, or --clustering is not about this one.
    """
    runtime = args.runtime
    if runtime == "auto":
        runtime = "detectnet" if detector.about["target"] == "jetson" else detector.raw.package
    if runtime == "detectnet":
        clustering = CLUSTERING if args.clustering is None else args.clustering
        shown = DetectNet(detector, score_threshold=threshold_of(args), clustering=clustering)
        return runtime, shown.predict
    if runtime != detector.raw.package:
        raise ValueError(f"--runtime {runtime}: {args.trained_model} is for {detector.raw.package}")
    if args.clustering is not None:
        raise ValueError("--clustering is about --runtime detectnet")
    return runtime, detector.predict


def make_validation(
    args: argparse.Namespace, class_names: list[str], **measured: Any
) -> Validation:
    """Put what was measured together with what the command says of the model and the data."""
    return Validation(
        class_names=class_names,
        weights=args.trained_model,
        dataset=data_name(args),
        dataset_flags=[data_words(args)],
        split=args.split,
        train_sources=find_train_sources(args, class_names),
        command=args.command,
        **measured,
    )


def open_source(args: argparse.Namespace) -> Source:
    """Read the images and boxes to evaluate on."""
    return open_dataset(args, split=args.split).open(args.split)


def print_metrics(args: argparse.Namespace, metrics: dict) -> None:
    """Print the measurements as JSON or as tables."""
    lines = [json.dumps(metrics)] if args.json else metrics_table(metrics)
    print(*map(printable, lines), sep="\n")


def threshold_of(args: argparse.Namespace) -> float:
    """The score from which on precision and recall count boxes, and detectNet shows them."""
    return SCORE_THRESHOLD if args.score_threshold is None else args.score_threshold


def weights_flags(args: argparse.Namespace) -> list[str]:
    """Return what a command needs besides --trained-model to load the same weights."""
    names = ("net", "label_file", "tiles", "box_voting")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return [word for name, value in given.items() for word in (flag_of(name), str(value))]


def find_train_sources(args: argparse.Namespace, class_names: list[str]) -> list[Source] | None:
    """Read the training split beside the one that is evaluated, for the report; None without."""
    if not args.output_dir or args.split == "train":
        return None
    folder = open_dataset(args, split=args.split)
    if "train" not in folder.splits:
        return None
    return [source_with_classes(folder.open("train"), class_names)]


def report(
    args: argparse.Namespace,
    validation: Validation,
    category_ids: list[int],
    *,
    run: Path | None,
    top_scores: dict[str, float] | None = None,
) -> None:
    """Print the measurements and write the files.

    Args:
        args: of the command.
        validation: what was measured.
        category_ids: the annotations' ids of labels 1..C.
        run: the folder that may be that of the training.
        top_scores: {class: its highest score}, said where nothing was found.
    """
    metrics = validation.metrics
    print_metrics(args, metrics)
    if not len(validation.detections) and top_scores:
        lines = explain_nothing_found(top_scores, validation.score_threshold)
        print(*map(printable, lines), sep="\n", file=sys.stderr if args.json else sys.stdout)
    analysis, written = Analysis(validation), None
    if args.output_dir:
        folder = Path(args.output_dir)
        image_ids = validation.sources[0].index.image_ids
        write_results(
            folder, metrics, validation.detections, image_ids=image_ids, category_ids=category_ids
        )
        written = write_report(folder, analysis, run=run)
    if not args.json:
        lines = ["", *summary_lines(analysis, report=written and str(written))]
        print(*map(printable, lines), sep="\n")


def write_results(
    folder: Path,
    metrics: dict,
    detections: Detections,
    *,
    image_ids: np.ndarray,
    category_ids: list[int],
) -> None:
    """Write metrics.json and detections.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content = detections_json(detections, image_ids=image_ids, category_ids=category_ids)
    write_atomically(folder / "detections.json", content)
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    logger.info("%s: metrics.json and detections.json", folder)


if __name__ == "__main__":
    raise SystemExit(main())
