"""Give COCO annotation files sequential category ids and repair broken annotations.

    python fix_coco_annotations.py --path coco-data

In every `annotations/instances_*.json` the category ids become 0, 1, ... in the order of the old
ids, which are kept as `original_id`; the annotations get the new ids. The original file stays
beside the new one as `instances_*.original.json`. Annotations of categories or images that do not
exist, and boxes that are not finite or outside their image, are dropped; annotation ids that are 0
or used twice are replaced; missing `area` and `iscrowd` are filled in. Images get the width and
height that they lack, a number where their id is text, and the name of their file where it was
spelled in another way. Each kind is counted in the output; nothing else changes. A second run
changes nothing; after an interruption run it again. Exit status 1: the file that the message names,
and those after it, are unchanged.
"""

from vision.installed import require

require("msgspec", "numpy")

import argparse
import sys
from functools import partial
from pathlib import Path

from vision.command_line import FamilyParser, run_script
from vision.datasets.coco_ids import MISSING_ID
from vision.datasets.folder_contents import contents_of
from vision.files.guarded import linked_folder
from vision.files.printable import printable
from vision.repair.coco_repair import Repair, check_same_classes, plan_repair
from vision.repair.coco_rewrite import write_repair


def main(argv: list[str] | None = None) -> int:
    """Repair the annotations; return the exit code."""
    arguments = build_parser().parse_args(argv)
    return run_script(
        partial(fix_annotations, arguments.path, dry_run=arguments.dry_run),
        interrupted="interrupted; every file is whole, run the same command again",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="folder that holds annotations/")
    parser.add_argument("--dry-run", action="store_true", help="report, and write nothing")
    return parser


def fix_annotations(root: Path, *, dry_run: bool) -> int:
    """Check every annotation file of a data set, then repair them one after the other.

    Returns:
        0; 1 where a file cannot be read: all such files are named and none is changed, since the
        ids have to be the same in all.

    Raises:
        ValueError: no files, or files with different classes.
        OSError: a file cannot be written.
    """
    files, others = find_annotation_files(root)
    target = linked_folder(root, "annotations/of.json")
    if target and not dry_run:
        print(printable(f"{files[0].parent}: a link, so the files in {target} are written"))
    for path in others:
        print(printable(f"{path}: left alone, not an instances file"))
    repairs: dict[Path, Repair] = {}
    for path in files:
        try:
            repairs[path] = plan_repair(path)
        except (OSError, ValueError) as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
    if len(repairs) < len(files):
        return 1
    check_same_classes(list(repairs.values()))
    for path, repair in repairs.items():
        for doubt in repair.doubts:
            print(printable(f"{path}: {doubt}"))
        if not repair.is_needed:
            print(printable(f"{path}: already fixed, unchanged"))
            continue
        for line in describe(repair):
            print(printable(f"{path}: {line}"))
        if not dry_run:
            original = write_repair(repair).name
            print(printable(f"{path}: written; the original is {original}"))
    return 0


def find_annotation_files(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the `instances_*.json` of a data set, and the annotation files of other kinds.

    Raises:
        ValueError: there is no folder, or no instances file in it.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such data set folder")
    folder = root / "annotations"
    originals = {*folder.glob("*.original.json"), *folder.glob("*.original.*.json")}
    files = sorted({*folder.glob("*.json")} - originals)
    instances = [path for path in files if path.name.startswith("instances_")]
    if not instances:
        raise ValueError(
            f"{root}: no annotations/instances_*.json in it; it holds "
            + ", ".join(f"annotations/{path.name}" for path in files[:5])
            + (contents_of(root) if not files else "")
            + ("; YOLO labels need no fixing" if (root / "labels").is_dir() else "")
        )
    return instances, [path for path in files if path not in instances]


def describe(repair: Repair) -> list[str]:
    """Say what is repaired, one line for each kind."""
    lines = []
    if repair.renumbers:
        ids = [category.id for category in repair.categories]
        lines.append(f"{len(ids)} category ids {ids[0]}..{ids[-1]} become 0..{len(ids) - 1}")
    for what, rows in (
        ("without width and height, read from their files", ~repair.images.has_size),
        ("whose id is text, numbered", repair.images.has_text_id),
        ("whose name is spelled in another way than their file's", repair.images.is_renamed),
    ):
        if rows.any():
            example = repair.images.names[int(rows.argmax())]
            lines.append(f"images {what}: {int(rows.sum())} ({example})")
    lines += [f"annotations {what}: {_examples(repair, what)}" for what in repair.found]
    return lines


def _examples(repair: Repair, what: str) -> str:
    ids = repair.annotations.ids[repair.found[what]]
    shown = [str(number) for number in ids[:3].tolist() if number != MISSING_ID]
    more = ["..."] * (len(ids) > 3)
    return f"{len(ids)} (ids {', '.join(shown + more)})" if shown else str(len(ids))


if __name__ == "__main__":
    raise SystemExit(main())
