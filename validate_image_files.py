"""Decode every image of a folder with scikit-image and find what cannot be trained on.

    python validate_image_files.py --path coco-data/train2017
    python validate_image_files.py --path coco-data/train2017 --dry-run --report report.json
    python validate_image_files.py --path coco-data/train2017 --restore

Unreadable files (empty, truncated, not an image, a decompression bomb) move to <path>_invalid/,
with a report.json by which --restore moves them back. Sizes and names are compared with the
annotations of the folder, of any layout that train_ssd.py reads, where there are any. No image is
ever rewritten. Exit code 0: all is sound; 1: something was found. A photo of more than 179 million
pixels, where scikit-image stops, is reported and stays.
"""

from vision.installed import require

require("PIL", "cv2", "msgspec", "numpy", "skimage", "tqdm", "yaml")

import argparse
import functools
import json
import os
import sys
from pathlib import Path

import msgspec
from tqdm import tqdm

from vision.command_line import FamilyParser, run_script, worker_count
from vision.data_flags import add_reading_flags, reading_options
from vision.datasets.findings import Findings
from vision.files.atomic_file import write_atomically
from vision.files.printable import printable
from vision.validate.image_check import MACHINE_FAULTS, UNREADABLE
from vision.validate.image_entries import Annotations, find_annotations
from vision.validate.quarantine import invalid_folder, move_aside, restore
from vision.validate.validate_folder import validate_folder

# More damaged files than this point to the machine, not to the data set.
_FEW = 5


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--path", type=Path, required=True, help="the folder of images, or of the data set"
    )
    parser.add_argument(
        "--workers", type=worker_count, default=_num_cores(), help="processes; default: all cores"
    )
    parser.add_argument("--dry-run", action="store_true", help="report only, move nothing")
    parser.add_argument("--restore", action="store_true", help="move the files in _invalid back")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all findings as JSON")
    parser.add_argument(
        "--annotations",
        type=Path,
        action="append",
        metavar="FILE",
        help="COCO file to compare with (default: those of the folder, if any)",
    )
    add_reading_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Validate or restore; 0 when all is sound, 1 when something was found."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    if args.annotations and args.dataset_type not in ("auto", "coco"):
        parser.error(f"--dataset-type {args.dataset_type}: --annotations is a file of COCO's")
    work = functools.partial(_restore if args.restore else _validate, args)
    return run_script(work, interrupted="interrupted; a further run continues", warnings_only=True)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _validate(args: argparse.Namespace) -> int:
    findings = Findings()
    if args.annotations:
        annotations = Annotations([(file, args.path) for file in args.annotations])
    else:
        annotations = find_annotations(
            args.path, layout=args.dataset_type, options=reading_options(args)
        )
    progress = functools.partial(tqdm, unit=" images", disable=None)
    num_files, unreadable = validate_folder(
        args.path, annotations, workers=args.workers, findings=findings, progress=progress
    )
    if unreadable and not args.dry_run:
        unreadable = move_aside(args.path, unreadable)
    if args.report is not None:
        content = {
            "path": str(args.path),
            "num_files": num_files,
            "annotation_files": annotations.names,
            "findings": findings.as_report(),
            "unreadable": unreadable,
            "moved": not args.dry_run,
        }
        text = json.dumps(msgspec.to_builtins(content), indent=2)  # names need not be UTF-8
        write_atomically(args.report, (text + "\n").encode())
    has_annotations = bool(annotations.names or annotations.problems)
    _print_result(args, num_files, has_annotations, len(unreadable), findings)
    return 1 if findings.counts else 0


def _print_result(
    args: argparse.Namespace,
    num_files: int,
    has_annotations: bool,
    num_unreadable: int,
    findings: Findings,
) -> None:
    print(f"{args.path}: {num_files} images decoded, {num_unreadable} unreadable")
    if not has_annotations:
        print("no annotation file for this folder, so sizes and names were not compared")
    for kind, number in findings.counts.items():
        print(f"{kind}: {number}")
    if num_unreadable and args.dry_run:
        print("dry run: nothing was moved")
    elif num_unreadable:
        print(f"moved to {invalid_folder(args.path)}; --restore moves them back")
    damaged = sum(findings.counts.get(kind, 0) for kind in (*UNREADABLE, *MACHINE_FAULTS))
    if damaged > _FEW:
        print(
            f"{damaged} damaged files are more than a few: the disk or the memory may be at fault; "
            "check both, and compare the digests with those of another download"
        )


def _restore(args: argparse.Namespace) -> int:
    restored, problems = restore(args.path, dry_run=args.dry_run)
    for problem in problems:
        print(printable(problem), file=sys.stderr)
    verb = "would be restored" if args.dry_run else "restored"
    print(f"{args.path}: {len(restored)} images {verb}, {len(problems)} not")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
