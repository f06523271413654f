#!/usr/bin/env python3
"""Draw a trained detector's detections on images.

    python run_ssd_example.py --trained-model runs/coco --output-dir pictures photo.jpg other.png
    python run_ssd_example.py --trained-model runs/coco --output-dir pictures photos/ \\
        --score-threshold 0.5
    python run_ssd_example.py --trained-model torchvision --net ssdlite320-mb3-large \\
        --output-dir pictures photo.jpg

Writes photo_detections.jpg and so on into --output-dir, and prints a line for each image.
"""

from vision.installed import require

require("cv2", "numpy", "torch", "torchvision")

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from vision.command_line import FamilyParser, run_script
from vision.datasets.image_files import read_image
from vision.datasets.image_list import IMAGE_SUFFIXES
from vision.deploy.load_predictor import load_predictor
from vision.engine.cpu_memory import keep_freed_memory
from vision.engine.machine_limits import explain
from vision.engine.precision import PRECISIONS
from vision.files.atomic_file import write_atomically
from vision.ssd.models import MODELS
from vision.visualize import draw_boxes


def main(argv: list[str] | None = None) -> int:
    """Predict and draw; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    return run_script(partial(run, args), explain=explain)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = FamilyParser(
        prog="run_ssd_example.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="image files, or folders of them")
    add("--trained-model", required=True, metavar="RUN_OR_FILE",
        help="run folder (its best checkpoint), checkpoint, family state dict, or torchvision "
        "for its COCO weights of --net")  # fmt: skip
    add("--net", choices=tuple(MODELS), help="network, for a bare state dict or torchvision")
    add("--label-file", metavar="FILE", help="class names, for a bare state dict")
    add("--output-dir", required=True, metavar="DIR", help="gets the pictures")
    add("--limit", type=int, default=0, metavar="N", help="first N images only; 0: all")
    add("--score-threshold", type=float, default=0.3, metavar="X",
        help="lowest score of a detection")  # fmt: skip
    add("--iou-threshold", type=float, metavar="X",
        help="overlap above which the lower-scored of two boxes of a class goes; default: the "
        "network's own")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--precision", choices=PRECISIONS, default="auto",
        help="of the network; auto: bf16 where the hardware has it")  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> None:
    """Load the detector, then read, detect, draw and write one image after the other."""
    paths = find_images(args.images)
    paths = paths[: args.limit] if args.limit > 0 else paths
    predictor = load_predictor(
        args.trained_model,
        net=args.net,
        label_file=args.label_file,
        device=args.device,
        precision=args.precision,
        score_threshold=args.score_threshold,
        iou_threshold=args.iou_threshold,
    )
    folder = Path(args.output_dir)
    for path, name in zip(paths, picture_names(paths), strict=True):
        pixels = read_image(path)
        found = predictor(pixels)
        picture = draw_boxes(
            pixels, found["boxes"].numpy(), found["names"], scores=found["scores"].tolist()
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, encode_jpeg(picture))
        counts = Counter(found["names"])
        summary = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"{path}: {summary or 'nothing'} -> {folder / name}")


def find_images(arguments: list[str]) -> list[Path]:
    """List the images that the arguments name, those of a folder sorted.

    Raises:
        ValueError: a folder without images; a path that is not there.
    """
    paths = []
    for argument in map(Path, arguments):
        if not argument.exists():
            raise ValueError(f"{argument}: no such image or folder")
        if argument.is_dir():
            found = [p for p in sorted(argument.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise ValueError(f"{argument}: no images in it")
            paths += found
        else:
            paths.append(argument)
    return paths


def picture_names(paths: list[Path]) -> list[str]:
    """Name the pictures after the images, never like one; of equal names the later get a number."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path.stem] += 1
        number = f"_{seen[path.stem]}" if seen[path.stem] > 1 else ""
        names.append(f"{path.stem}{number}_detections.jpg")
    return names


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] RGB."""
    _, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return content.tobytes()


if __name__ == "__main__":
    raise SystemExit(main())
