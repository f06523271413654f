#!/usr/bin/env python3
"""Look at a data set before a training: what is wrong, what is odd, and which flags it asks for.

    python check_dataset.py --dataset my-data
    python check_dataset.py --dataset my-data --image-size 512 --html page.html --json found.json

Every annotation is read and every image decoded. Images that are there twice, that look the same,
or that are in train and in val are named. Nothing is changed. The exit code is 1 where something
would end a training or make its numbers wrong.
"""

from vision.installed import require

require("torch", "numpy", "cv2", "msgspec", "yaml", "tqdm")

import argparse
import functools
import json
import sys
from pathlib import Path

from tqdm import tqdm

from vision.command_line import FamilyParser, image_size, run_script
from vision.data_flags import add_data_flags, check_data_flags, data_name, open_dataset
from vision.doctor.check import CheckedData, as_json, check_folder
from vision.doctor.lines import finding_lines, text_lines
from vision.doctor.suggest import FINER, Coverage, box_shapes, measure_coverage, suggest_flags
from vision.files.atomic_file import write_atomically
from vision.files.printable import printable
from vision.ssd.models import MODELS


def main(argv: list[str] | None = None) -> int:
    """Check; 0 where nothing is wrong, 1 where something is."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_data_flags(parser, args)
    return run_script(functools.partial(check, args))


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(
        prog="check_dataset.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_data_flags(parser, "", pairs=("train", "val"))
    add("--net", choices=tuple(MODELS), default="mb2-ssd-lite",
        help="whose priors are measured")  # fmt: skip
    add("--image-size", "--resolution", type=image_size, metavar="SIZE",
        help="input in pixels, 300 or HEIGHTxWIDTH; default: the network's own")  # fmt: skip
    add("--json", metavar="FILE", help="write what was found as JSON; -: print it")
    add("--html", metavar="FILE", help="write a page with drawings and the oddest images")
    return parser


def check(args: argparse.Namespace) -> int:
    """Look at everything, print and write it."""
    size = args.image_size or MODELS[args.net].image_size
    data = check_folder(
        open_dataset(args, split="train"),
        progress=functools.partial(tqdm, unit=" images", disable=None),
    )
    if not isinstance(data, CheckedData):
        print(*map(printable, finding_lines(data)), sep="\n")
        write_json(args.json, {"findings": as_json(data)})
        return 1
    coverage = [measure_coverage(data, name, size) for name in dict.fromkeys((args.net, FINER))]
    flags = suggest_flags(data, coverage, size)
    if args.json != "-":
        lines = text_lines(data_name(args), data, coverage, flags, image_size=size)
        print(*map(printable, lines), sep="\n")
    write_json(args.json, describe(data, coverage, flags, image_size=size))
    if args.html:
        from vision.doctor.page import build_page  # 80 MB that nothing else needs
        from vision.report.page import as_utf8

        page = build_page(data_name(args), data, coverage, flags, image_size=size)
        write_atomically(Path(args.html), as_utf8(page))
        print(f"{args.html}: written", file=sys.stderr)
    return int(any(finding.is_wrong for finding in data.findings))


def describe(
    data: CheckedData,
    coverage: list[Coverage],
    flags: list[tuple[str, str]],
    *,
    image_size: tuple[int, int],
) -> dict:
    """What was found, as plain values."""
    indices = {name: source.index for name, source in data.splits.items()}
    return {
        "images": {name: len(index) for name, index in indices.items()},
        "boxes": {name: int(index.trainable.sum()) for name, index in indices.items()},
        "classes": {
            class_name: {name: int(index.boxes_per_class()[k]) for name, index in indices.items()}
            for k, class_name in enumerate(data.class_names)
        },
        "shapes": box_shapes(data, image_size),
        "findings": as_json(data.findings),
        "coverage": {
            item.network: {
                "own": item.own,
                "fitted": item.fitted,
                "by_class": {
                    name: {"own": own, "fitted": fitted}
                    for name, (own, fitted) in item.by_class.items()
                },
            }
            for item in coverage
        },
        "suggested_flags": [{"flag": flag, "reason": reason} for flag, reason in flags],
    }


def write_json(where: str | None, content: dict) -> None:
    """Print or write it, as --json says."""
    text = json.dumps(content, indent=2)
    if where == "-":
        print(text)
    elif where:
        write_atomically(Path(where), (text + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
