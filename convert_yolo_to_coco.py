"""Convert a folder with YOLO labels into a COCO-style data set; no image is copied.

    python convert_yolo_to_coco.py --data-root finetune_dataset
    python convert_yolo_to_coco.py --data-root roboflow_export --output coco-style

Writes annotations/instances_<split>.json and annotations/conversion_report.json into the folder
itself, which is then a root for train_ssd.py --datasets; or into --output, which gets a link to
the images of each split. Splits are splits/*.txt, or those of data.yaml, or the folders
images/train and train/images.
"""

from vision.installed import require

require("msgspec", "numpy", "tqdm", "yaml")

import argparse
import functools
from pathlib import Path

from tqdm import tqdm

from vision.command_line import FamilyParser, run_script
from vision.datasets.coco_export import write_coco_root
from vision.datasets.findings import Findings
from vision.datasets.yolo import UNREADABLE, YoloSplit, read_yolo
from vision.datasets.yolo_export import coco_of, write_report
from vision.datasets.yolo_formats import LABEL_FORMATS


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-root", type=Path, required=True, help="folder of images/ and labels/, or data.yaml"
    )
    parser.add_argument(
        "--output", type=Path, metavar="ROOT", help="write there and link the images"
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line")
    for split in ("train", "val", "test"):
        parser.add_argument(
            f"--{split}-split", type=Path, metavar="FILE", help=f"image paths of split {split}"
        )
    parser.add_argument(
        "--strict-labels",
        action="store_true",
        help="a malformed row or a class outside the list is an error, not a warning",
    )
    parser.add_argument(
        "--confidence", action="store_true", help="rows may end with a confidence; ignore it"
    )
    parser.add_argument(
        "--label-format", choices=LABEL_FORMATS, default="auto", help="what a label row holds"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="where every finding goes (default: annotations/conversion_report.json)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Convert; 0 when done, 1 on a failure, or where images could not be read."""
    args = build_parser().parse_args(argv)
    return run_script(functools.partial(_convert, args), warnings_only=True)


def _convert(args: argparse.Namespace) -> int:
    given = {"train": args.train_split, "val": args.val_split, "test": args.test_split}
    findings = Findings()
    splits = read_yolo(
        args.data_root,
        split_files={split: file for split, file in given.items() if file is not None},
        class_file=args.classes,
        strict_labels=args.strict_labels,
        has_confidence=args.confidence,
        label_format=args.label_format,
        skip_unreadable=True,
        findings=findings,
        progress=functools.partial(tqdm, unit=" images", disable=None),
    )
    data_root = args.data_root if args.data_root.is_dir() else args.data_root.parent
    root = args.output or data_root
    files = write_coco_root(
        {split: (coco_of(data), data.image_folder) for split, data in splits.items()}, root
    )
    report = args.report or root / "annotations" / "conversion_report.json"
    write_report(splits, findings, report)
    _print_result(splits, files, findings, report)
    return 1 if UNREADABLE in findings.counts else 0


def _print_result(
    splits: dict[str, YoloSplit], files: dict[str, Path], findings: Findings, report: Path
) -> None:
    for split, data in splits.items():
        print(
            f"{split}: {len(data.names)} of {data.num_listed} images "
            f"({data.num_without_label_file} without a label file), "
            f"{len(data.boxes)} boxes -> {files[split]}"
        )
    for kind, number in findings.counts.items():
        print(f"{kind}: {number}")
    print(f"report: {report}")


if __name__ == "__main__":
    raise SystemExit(main())
