#!/usr/bin/env python3
"""Turn a detections.json into labels to correct by hand, the least certain images first.

    python eval_ssd.py --trained-model runs/x --dataset more --split test --output-dir out
    python detections_to_labels.py --detections out/detections.json --dataset more --split test \\
        --format yolo --output to-correct

--output gets one label file an image (yolo, voc) or one instances.json (coco), the class names, and
order.txt: the images by how unsure the detector is of them, most unsure first.
"""

from vision.installed import require

require("numpy", "msgspec", "yaml")

import argparse
import functools
from pathlib import Path

from vision.command_line import FamilyParser, check_shares, run_script
from vision.data_flags import add_data_flags, check_data_flags, open_dataset
from vision.datasets.prelabel import WRITERS, order_by_doubt, read_detections
from vision.files.atomic_file import write_atomically
from vision.files.printable import printable


def main(argv: list[str] | None = None) -> int:
    """Convert; return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_data_flags(parser, args)
    check_shares(parser, args, "score_threshold")
    return run_script(functools.partial(convert, args))


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(
        prog="detections_to_labels.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--detections", required=True, metavar="FILE", help="COCO results, as eval_ssd.py writes")
    add_data_flags(parser, " that the results were made of")
    add("--split", default="test", metavar="NAME", help="split of --dataset; default: test")
    add("--format", choices=tuple(WRITERS), default="yolo", help="format of the labels")
    add("--output", required=True, type=Path, metavar="DIR", help="new or empty folder")
    add("--score-threshold", type=float, default=0.3, metavar="X",
        help="lowest score of a box that is written")  # fmt: skip
    return parser


def convert(args: argparse.Namespace) -> None:
    """Read, write and say what came out."""
    if args.output.is_dir() and any(args.output.iterdir()):
        raise ValueError(f"{args.output}: is not empty; give a new folder")
    index = open_dataset(args, split=args.split).open(args.split).index
    found = read_detections(args.detections, index)
    order = order_by_doubt(found, len(index))
    kept = found.at_least(args.score_threshold)
    args.output.mkdir(parents=True, exist_ok=True)
    WRITERS[args.format](args.output, index, kept)
    names = "".join(f"{printable(index.file_name(row))}\n" for row in order)
    write_atomically(args.output / "order.txt", names.encode())
    print(
        f"{args.output}: {len(kept.labels)} boxes of {len(index)} images, as {args.format}; "
        "order.txt begins with those to look at first"
    )


if __name__ == "__main__":
    raise SystemExit(main())
