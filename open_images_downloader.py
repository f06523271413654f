#!/usr/bin/env python3
"""Fetch images and boxes of some classes of Open Images.

    python open_images_downloader.py --class-names "Apple,Orange" --stats-only
    python open_images_downloader.py --class-names "Apple,Orange" --max-images 2500 --data fruit

--data gets train/, validation/ and test/ with the images, sub-train-annotations-bbox.csv and so on
with their boxes, and the official annotations (1 GB) that these are taken from; it is then a
--datasets folder of train_ssd.py. What is there already is not fetched again, so an interrupted
call is simply repeated.
"""

from vision.installed import require

require("requests", "urllib3", "tqdm", "numpy")

import argparse
import functools
import sys
from pathlib import Path

from tqdm import tqdm

from vision.command_line import FamilyParser, run_script, worker_count
from vision.download.coco_install import lock_folder
from vision.download.open_images import (
    ANNOTATIONS_URL,
    IMAGES_URL,
    SPLITS,
    Choice,
    Server,
    choose_boxes,
    describe,
    fetch_class_names,
    fetch_images,
    fetch_rows,
    write_subset,
)
from vision.files.printable import printable


def main(argv: list[str] | None = None) -> int:
    """Fetch; 0 when all is there, 1 where an image is not."""
    return run_script(functools.partial(run, build_parser().parse_args(argv)))


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(
        prog="open_images_downloader.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--class-names", required=True, metavar="A,B", help="classes, with commas between them")
    add("--data", "--root", "--path", type=Path, default=Path("data"), metavar="ROOT",
        help="folder for everything; default: data")  # fmt: skip
    add("--max-images", type=int, default=0, metavar="N",
        help="images of all splits together, in proportion; 0: all")  # fmt: skip
    add("--max-annotations-per-class", type=int, default=0, metavar="N",
        help="boxes of each class of all splits together; 0: all")  # fmt: skip
    add("--stats-only", action="store_true", help="count images and boxes, without fetching images")
    add("--related-images", action="store_true",
        help="keep the boxes of all other classes in the images, too")  # fmt: skip
    add("--include-depiction", action="store_true", help="drawings and the like, too")
    add("--remove-overlapped", action="store_true",
        help="leave out single boxes inside a group box of their class")  # fmt: skip
    add("--num-workers", "--workers", type=worker_count, default=10, metavar="N",
        help="images at the same time")  # fmt: skip
    add("--retry", "--retries", type=int, default=10, metavar="N", help="failed tries in a row")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds without an answer")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the choice by --max-...")
    add("--annotations-url", default=ANNOTATIONS_URL, help="server of the CSV files")
    add("--images-url", default=IMAGES_URL, help="server of the images")
    return parser


def run(args: argparse.Namespace) -> int:
    """Fetch the annotations, choose, and fetch the images."""
    server = Server(args.annotations_url, args.images_url, timeout=args.timeout, retries=args.retry)
    choice = Choice(
        class_names=[name.strip() for name in args.class_names.split(",") if name.strip()],
        max_images=args.max_images,
        max_boxes_per_class=args.max_annotations_per_class,
        with_other_classes=args.related_images,
        with_depictions=args.include_depiction,
        remove_overlapped=args.remove_overlapped,
        seed=args.seed,
    )
    args.data.mkdir(parents=True, exist_ok=True)
    with lock_folder(args.data):
        names = fetch_class_names(server, args.data)
        choice = choice.of_known(names.values(), args.data)
        rows = {split: fetch_rows(server, args.data, split, names) for split in SPLITS}
        chosen = choose_boxes(rows, choice)
        print("\n".join(describe(chosen, choice)))
        if args.stats_only:
            return 0
        failures = []
        for split, boxes in chosen.items():
            progress = functools.partial(tqdm, desc=split, unit=" images", disable=None)
            missing = fetch_images(
                server, args.data / split, boxes, workers=args.num_workers, progress=progress
            )
            write_subset(args.data / f"sub-{split}-annotations-bbox.csv", boxes, without=missing)
            failures += missing.values()
    for failure in failures[:10]:
        print(f"error: {printable(failure)}", file=sys.stderr)
    if failures:
        print(
            f"error: {len(failures)} images are not there and are left out; call it again to try "
            "once more",
            file=sys.stderr,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
