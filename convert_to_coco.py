#!/usr/bin/env python3
"""Write any data set that train_ssd.py reads as COCO JSON; no image is copied.

    python convert_to_coco.py --dataset VOC2007 --output voc-as-coco
    python convert_to_coco.py --dataset corners --boxes xyxy --output corrected

--output gets annotations/instances_<split>.json and a link to the images of each split. It may be
the data set's own folder, if that has no other annotations there. Boxes that have no area inside
their image are left out, and counted; segments are not written.
"""

from vision.installed import require

require("numpy", "msgspec", "yaml")

import argparse
import functools
from pathlib import Path

from vision.command_line import FamilyParser, run_script
from vision.data_flags import add_data_flags, check_data_flags, open_dataset
from vision.datasets.coco_export import coco_of_index, write_coco_root


def main(argv: list[str] | None = None) -> int:
    """Convert; return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check_data_flags(parser, args)
    return run_script(functools.partial(convert, args))


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(
        prog="convert_to_coco.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_flags(parser, "", pairs=("train", "val"))
    parser.add_argument(
        "--output", required=True, type=Path, metavar="ROOT", help="folder to write to"
    )
    return parser


def convert(args: argparse.Namespace) -> None:
    """Read all splits, then write them."""
    folder = open_dataset(args, split="train")
    sources = {split: folder.open(split) for split in folder.splits}
    content = {
        split: (coco_of_index(source.index), source.image_folder)
        for split, source in sources.items()
    }
    files = write_coco_root(content, args.output)
    for split, source in sources.items():
        index = source.index
        left_out = sum(len(ids) for why, ids in index.rejected.items() if "thinner" not in why)
        print(
            f"{split}: {len(index)} images, {len(index.labels)} boxes, {left_out} without area "
            f"left out -> {files[split]}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
