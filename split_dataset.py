#!/usr/bin/env python3
"""Divide a data set into train, val and test lists, so that no group is on two sides.

    python split_dataset.py --dataset my-data --output my-split
    python split_dataset.py --dataset my-data --output my-split --group-by video --seed 1 \\
        --fractions 0.8 0.2

All images of all splits of the data set are divided anew, each class in proportion. --output gets
train.txt, val.txt and test.txt with one image path a line, and COCO annotations of each:
instances_train.json and so on, which train_ssd.py reads with --train-json and --val-json. No image
is copied or moved, and the data set stays as it is.
"""

from vision.installed import require

require("numpy", "cv2", "msgspec", "yaml", "tqdm")

import argparse
import functools
import shlex
from pathlib import Path

from tqdm import tqdm

from vision.command_line import FamilyParser, run_script
from vision.data_flags import add_data_flags, check_data_flags, open_dataset
from vision.datasets.coco_export import coco_of_index, write_coco
from vision.doctor.check import open_all
from vision.doctor.divide import GROUPS, Division, divide
from vision.files.atomic_file import write_atomically
from vision.files.printable import printable

SPLITS = ("train", "val", "test")


def main(argv: list[str] | None = None) -> int:
    """Divide; return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_data_flags(parser, args)
    shares = args.fractions
    if len(shares) > 3 or not all(share > 0 for share in shares) or not sum(shares) <= 1.001:
        parser.error("--fractions are two or three shares above 0 that together make at most 1")
    return run_script(functools.partial(run, args))


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(
        prog="split_dataset.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_data_flags(parser, "", pairs=("train", "val"))
    add("--output", required=True, type=Path, metavar="DIR", help="new or empty folder")
    add("--fractions", type=float, nargs="+", default=[0.8, 0.1, 0.1], metavar="SHARE",
        help="shares of train, val and test; default: 0.8 0.1 0.1")  # fmt: skip
    add("--group-by", choices=GROUPS, default="duplicates",
        help="what stays on one side: images that look the same (the default), images of a folder, "
        "images of a video (neighbours by their number that look alike), or nothing")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="random seed")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read, divide, write and say what came out."""
    if args.output.is_dir() and any(args.output.iterdir()):
        raise ValueError(f"{args.output}: is not empty; give a new folder")
    splits, findings = open_all(open_dataset(args, split="train"))
    broken = [finding.what for finding in findings if finding.is_wrong]
    if broken:
        raise ValueError(broken[0])
    division = divide(
        list(splits.values()),
        fractions=args.fractions,
        group_by=args.group_by,
        seed=args.seed,
        progress=functools.partial(tqdm, unit=" images", disable=None),
    )
    for side in division.sides:
        if broken := [path for path in side.paths if path.splitlines() != [path]]:
            raise ValueError(
                f"{broken[0]!r}: a list cannot hold a name with a line break; rename it"
            )
    args.output.mkdir(parents=True, exist_ok=True)
    for name, side in zip(SPLITS, division.sides, strict=False):
        lines = "".join(f"{path}\n" for path in side.paths)
        write_atomically(args.output / f"{name}.txt", lines.encode())
        content = coco_of_index(side.source.index, description="divided by split_dataset.py")
        write_coco(args.output / f"instances_{name}.json", content)
    print(*map(printable, describe(division, args.output)), sep="\n")


def describe(division: Division, output: Path) -> list[str]:
    """What each side got, and the command that trains on it."""
    lines = [f"{len(division.groups)} groups, the largest of {max(division.groups)} images"]
    for name, side in zip(SPLITS, division.sides, strict=False):
        index = side.source.index
        if not len(index):
            lines.append(f"{name}: no images; use --group-by none, or other --fractions")
            continue
        counts = index.boxes_per_class()
        absent = [c.name for c in index.categories if not counts[c.label - 1]]
        lines.append(
            f"{name}: {len(index)} images, {int(counts.sum())} boxes"
            + (f"; no box of {', '.join(absent[:5])}" if absent else "")
        )
    train, val = (shlex.quote(str(output / f"instances_{name}.json")) for name in ("train", "val"))
    images = shlex.quote(str(division.sides[0].source.image_folder))
    lines.append(
        f"train_ssd.py --train-json {train} --train-images {images} --val-json {val} "
        f"--val-images {images} --checkpoint-folder RUN"
    )
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
