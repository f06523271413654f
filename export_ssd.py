#!/usr/bin/env python3
"""Export a trained detector for other runtimes, and measure what the files are worth there.

    python export_ssd.py --trained-model runs/coco --target jetson
    python export_ssd.py --trained-model runs/coco --target onnx jetson --dataset coco-data
    python export_ssd.py --trained-model runs/coco --target onnx onnx-int8 --dataset coco-data \\
        --max-drop 0.005
    python export_ssd.py --trained-model mb2-ssd-lite.pth --net mb2-ssd-lite \\
        --label-file labels.txt --target onnx --output-dir exported

Targets: jetson, for the detectnet of NVIDIA's jetson-inference; onnx and onnx-int8, for
onnxruntime; openvino and openvino-int8, for Intel's OpenVINO, and with --frigate for Frigate;
tflite and tflite-int8, for TensorFlow Lite (LiteRT) with its detection operator. The detect.py that
is written beside them runs each. With --dataset, each file is run on its own runtime over a split,
and one table compares it with PyTorch; deployment.json keeps it.
"""

from vision.installed import require

require("cv2", "msgspec", "numpy", "torch", "torchvision", "tqdm", "yaml")

import argparse
import json
import logging
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.args import TILES
from vision.command_line import FamilyParser, check_shares, image_size, run_script
from vision.data_flags import add_data_flags, check_data_flags, data_name, open_dataset
from vision.datasets.image_files import read_image
from vision.deploy.detect import RESIZE
from vision.deploy.torch_detector import TorchDetector
from vision.engine.machine_limits import explain
from vision.evaluation.exported import SCORE_THRESHOLD
from vision.files.atomic_file import write_atomically
from vision.files.guarded import refuse_link
from vision.ops.tiles import num_views, tile_rectangles
from vision.runs.load_model import load_for_inference
from vision.ssd.models import MODELS
from vision.ssd.ssd import SSD

if TYPE_CHECKING:  # of packages that may be missing
    from vision.deploy.export import Export

logger = logging.getLogger("export_ssd")
TARGETS = ("jetson", "onnx", "onnx-int8", "openvino", "openvino-int8", "tflite", "tflite-int8")
INT8_TARGETS = {target for target in TARGETS if target.endswith("-int8")}
TFLITE_TARGETS = {"tflite", "tflite-int8"}
OPENVINO_TARGETS = {"openvino", "openvino-int8"}


def main(argv: list[str] | None = None) -> int:
    """Export; return the exit code."""
    parser = build_export_parser(description=__doc__)
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    return run_script(partial(run, args), explain=explain)


def build_export_parser(**kwargs: Any) -> argparse.ArgumentParser:
    """Build the parser of export_ssd.py; `kwargs` go to ArgumentParser."""
    parser = FamilyParser(
        prog="export_ssd.py", formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
    )
    add = parser.add_argument
    add("--trained-model", required=True, metavar="RUN_OR_FILE",
        help="run folder (its best checkpoint), checkpoint, or family state dict")  # fmt: skip
    add("--net", choices=tuple(MODELS), help="network, for a bare state dict")
    add("--label-file", metavar="FILE", help="class names, for a bare state dict")
    add("--target", nargs="+", required=True, choices=TARGETS, help="which files to write")
    add("--output-dir", metavar="DIR",
        help="gets the files; default: export/ in the run folder, or beside the file")  # fmt: skip
    add("--image-size", "--resolution", type=image_size, metavar="SIZE",
        help="input in pixels, 300 or HEIGHTxWIDTH; default: as trained")  # fmt: skip
    add("--tiles", type=int, metavar="N",
        help="what the files tell detect.py: look at each image whole and in N x N overlapping "
        "tiles; default: as trained")  # fmt: skip
    add("--score-threshold", type=float, metavar="X",
        help="lowest score that counts in precision and recall, and on the device for each class; "
        f"default: {SCORE_THRESHOLD}, and with --dataset on the device for each class that of its "
        "best F1 in PyTorch")  # fmt: skip
    add("--min-precision", type=float, metavar="X",
        help="on the device, for each class the lowest score of this precision "
        "in PyTorch")  # fmt: skip
    add("--iou-threshold", type=float, metavar="X",
        help="overlap above which the lower-scored of two boxes of a class goes; default: the "
        "network's own")  # fmt: skip
    add("--box-voting", type=float, metavar="IOU",
        help="move a detection to the mean of the boxes of its class with a higher IoU than this; "
        "0: do not; default: as trained")  # fmt: skip
    add("--plain", action="store_true",
        help="jetson: without suppression in the graph, as pytorch-ssd's files are")  # fmt: skip
    add("--frigate", action="store_true",
        help="openvino: with the input and the one output that Frigate reads; prints the lines for "
        "its configuration")  # fmt: skip
    add("--raw-heads", action="store_true",
        help="tflite: scores, box offsets and priors as outputs, without the detection operator, "
        "for compilers that do not know it")  # fmt: skip
    add("--any-batch", action="store_true", help="onnx: take any number of images at once")
    add_data_flags(
        parser, ": measure the files on it, calibrate int8 with it", pairs=("val", "train")
    )
    add("--split", default="val", metavar="NAME", help="split to measure on")
    add("--calibration-split", default="train", metavar="NAME",
        help="split whose images int8 takes its ranges from")  # fmt: skip
    add("--calibration-images", type=int, default=160, metavar="N", help="how many of them")
    add("--keep-float", nargs="+", metavar="LAYERS",
        help="onnx-int8, openvino-int8: parts that stay float, such as base_net.0; default: those "
        "that are found to change the scores much")  # fmt: skip
    add("--max-drop", type=float, metavar="X",
        help="exit code 1 where a file's AP is lower than PyTorch's by more")  # fmt: skip
    add("--json", action="store_true", help="print deployment.json instead of the table")
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse values that cannot work, naming the flag."""
    shares = ("score_threshold", "min_precision", "iou_threshold", "box_voting", "max_drop")
    check_shares(parser, args, *shares)
    if args.tiles is not None and not TILES.holds(args.tiles):
        parser.error(f"--tiles must be {TILES.words}")
    if args.score_threshold is not None and args.min_precision is not None:
        parser.error("--score-threshold and --min-precision both say what the device asks for")
    if args.calibration_images < 1:
        parser.error("--calibration-images must be 1 or more")
    check_data_flags(parser, args, needed=False)
    if not data_name(args):
        for target in INT8_TARGETS.intersection(args.target):
            parser.error(f"--target {target} needs --dataset ROOT: its images give the ranges")
        if args.max_drop is not None or args.min_precision is not None or args.json:
            parser.error(
                "--max-drop, --min-precision and --json are about measuring: give --dataset ROOT"
            )
    if args.plain and "jetson" not in args.target:
        parser.error("--plain is about --target jetson")
    if args.any_batch and "onnx" not in args.target:
        parser.error("--any-batch is about --target onnx")
    if args.frigate and not OPENVINO_TARGETS.intersection(args.target):
        parser.error("--frigate is about --target openvino")
    if args.raw_heads and not TFLITE_TARGETS.intersection(args.target):
        parser.error("--raw-heads is about --target tflite")
    if args.keep_float and not (INT8_TARGETS - TFLITE_TARGETS).intersection(args.target):
        parser.error("--keep-float is about --target onnx-int8 and openvino-int8")


def run(args: argparse.Namespace, *, name: str | None = None) -> int:
    """Build all files, measure them, then write them; return the exit code.

    Args:
        args: of the parser.
        name: of the one file; None: by network and target.
    """
    require_packages(args.target)
    folder = output_folder(args)
    check_writable(folder, name=name)
    model, classes, _ = load_for_inference(
        args.trained_model,
        net=args.net,
        label_file=args.label_file,
        image_size=args.image_size,
        tiles=args.tiles,
        box_voting=args.box_voting,
    )
    if model.network.tiles > 1 and ("jetson" in args.target or args.frigate):
        logger.warning(
            "%s the whole image only: the %d x %d tiles are looked at by detect.py and Detector",
            "Frigate sees" if args.frigate else "detectNet sees", *[model.network.tiles] * 2,
        )  # fmt: skip
    exports = build_exports(args, model, classes)
    rows = measure_exports(args, model, classes, exports) if data_name(args) else []
    for export in exports:
        path = export.write(folder, name=name)
        logger.info("%s, with labels.txt, detect.py and %s.json", path, path.stem)
        if not args.json:
            print_use(path, export.about)
    return report_rows(args, rows, folder) if rows else 0


def require_packages(targets: list[str]) -> None:
    """Raise ValueError where a package of an extra is missing; names both."""
    needs = [("export", ("onnx", "onnxruntime"))]
    if OPENVINO_TARGETS.intersection(targets):
        needs.append(("openvino", ("openvino",)))
    if TFLITE_TARGETS.intersection(targets):
        needs.append(("tflite", ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")))
    for extra, packages in needs:
        missing = [name for name in packages if not find_spec(name)]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)}: not installed; pip install -e .[{extra}] brings what "
                "the targets need"
            )


def build_exports(args: argparse.Namespace, model: SSD, classes: list[dict]) -> list["Export"]:
    """Make the files, in memory."""
    from vision.deploy.export import ExportOptions, build_export

    is_int8 = INT8_TARGETS.intersection(args.target)
    options = ExportOptions(
        score_threshold=args.score_threshold,
        iou_threshold=args.iou_threshold,
        plain=args.plain,
        any_batch=args.any_batch,
        raw_heads=args.raw_heads,
        frigate=args.frigate,
        calibration=calibration_images(args, model) if is_int8 else None,
        keep_float=args.keep_float,
    )
    exports = []
    for target in dict.fromkeys(args.target):
        logger.info("building %s for %s", model.network.name, target)
        exports.append(
            build_export(target, model, classes, options, trained_model=args.trained_model)
        )
    return exports


def measure_exports(
    args: argparse.Namespace, model: SSD, classes: list[dict], exports: list["Export"]
) -> list[dict]:
    """Return the rows of deployment.json, PyTorch's first."""
    from vision.deploy.compare import compare, set_thresholds

    source = open_dataset(args, split=args.split).open(args.split)
    build = partial(
        TorchDetector,
        model,
        classes,
        threshold=model.network.postprocessing.score_threshold,
        iou_threshold=args.iou_threshold,
    )
    where = {"dataset": Path(data_name(args)).name, "split": args.split}
    rows, of_network = compare(
        build(),
        exports,
        source,
        without_voting=partial(build, voting_iou=0.0),
        score_threshold=threshold_of(args),
        where=where,
    )
    lines = set_thresholds(
        exports,
        of_network,
        precision=args.min_precision,
        recommend=args.score_threshold is None,
    )
    for line in lines:
        logger.info("%s", line)
    return rows


def threshold_of(args: argparse.Namespace) -> float:
    """The score from which on precision and recall count boxes."""
    return SCORE_THRESHOLD if args.score_threshold is None else args.score_threshold


def print_use(path: Path, about: dict) -> None:
    """Print the command or the configuration that makes a device use the file."""
    from vision.deploy.export import detectnet_command, frigate_config

    if about["target"] == "jetson":
        command = detectnet_command(path, about)
        print(f"on the Jetson, in the folder of these files:\n  {command}")
    if about.get("frigate"):
        print(f"in Frigate's configuration, with these files in /config/model_cache:\n"
              f"{frigate_config(path, about)}")  # fmt: skip


def report_rows(args: argparse.Namespace, rows: list[dict], folder: Path) -> int:
    """Print and write what the files are worth; return the exit code."""
    from vision.deploy.compare import drops, table

    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(folder / "deployment.json", text.encode())
    print(text if args.json else "\n".join(table(rows)))
    losses = [] if args.max_drop is None else drops(rows, args.max_drop)
    for line in losses:
        logger.error("%s", line)
    return 1 if losses else 0


def output_folder(args: argparse.Namespace) -> Path:
    """Where the files go."""
    if args.output_dir:
        return Path(args.output_dir)
    path = Path(args.trained_model)
    folder = (path if path.is_dir() else path.parent) / "export"
    refuse_link(folder)
    return folder


def check_writable(folder: Path, *, name: str | None) -> None:
    """Raise ValueError, before the work, where the files could not be written; makes nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{there}: a file, and the exported files need a folder: --output-dir DIR")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{there}: not writable; --output-dir DIR names another folder")
    if name and (folder / name).is_dir():
        raise ValueError(f"{folder / name}: a folder; --output names the file")


def calibration_images(args: argparse.Namespace, model: SSD) -> list[np.ndarray]:
    """Read images of the calibration split, evenly spread over it, at the size of the input.

    With tiles the views of an image take turns: of each image one.
    """
    split = args.calibration_split
    source = open_dataset(args, split=split).open(split)
    if not len(source.index):
        raise ValueError(f"{source.index.annotation_file}: it lists no images to calibrate with")
    count = min(args.calibration_images, len(source.index))
    rows = np.linspace(0, len(source.index) - 1, count).astype(int)
    paths = [Path(source.image_folder) / source.index.file_name(row) for row in rows]
    resize, tiles = RESIZE[model.network.resize], model.network.tiles
    images = []
    try:
        for i, pixels in enumerate(map(read_image, paths)):
            x1, y1, x2, y2 = tile_rectangles([pixels.shape[:2]], tiles)[0, i % num_views(tiles)]
            images.append(resize(pixels[y1:y2, x1:x2], model.image_size))
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename}: not there; int8 takes its ranges from images of the split "
            f"{args.calibration_split}: --calibration-split names another"
        ) from None
    return images


if __name__ == "__main__":
    raise SystemExit(main())
