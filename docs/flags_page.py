"""Write docs/flags.md, the flags of every script, from their parsers: python -m docs.flags_page"""

import argparse
import re
from pathlib import Path

import check_dataset
import coco_downloader
import compare_runs
import convert_to_coco
import convert_yolo_to_coco
import detections_to_labels
import eval_ssd
import export_ssd
import fix_coco_annotations
import onnx_export
import open_images_downloader
import run_ssd_example
import run_ssd_live_demo
import split_dataset
import train_mobilenetv2_ssd
import validate_image_files
from vision.args import build_train_parser

PAGE = Path(__file__).parent / "flags.md"
HEAD = """\
# Flags

`make docs` writes this page from the scripts' own parsers. Where a flag has more than one spelling,
all do the same, and underscores are taken for hyphens (`--batch_size`): most of these are what
[pytorch-ssd](https://github.com/qfgaohao/pytorch-ssd) and its forks, "the family", call the flag.
"""
PARSERS = {
    "train_ssd.py": build_train_parser,
    "eval_ssd.py": eval_ssd.build_eval_parser,
    "compare_runs.py": compare_runs.build_compare_parser,
    "export_ssd.py": export_ssd.build_export_parser,
    "onnx_export.py": onnx_export.build_parser,
    "run_ssd_example.py": run_ssd_example.build_parser,
    "run_ssd_live_demo.py": run_ssd_live_demo.build_parser,
    "train_mobilenetv2_ssd.py": train_mobilenetv2_ssd.build_parser,
    "check_dataset.py": check_dataset.build_parser,
    "split_dataset.py": split_dataset.build_parser,
    "convert_to_coco.py": convert_to_coco.build_parser,
    "detections_to_labels.py": detections_to_labels.build_parser,
    "open_images_downloader.py": open_images_downloader.build_parser,
    "coco_downloader.py": coco_downloader.build_parser,
    "validate_image_files.py": validate_image_files.build_parser,
    "fix_coco_annotations.py": fix_coco_annotations.build_parser,
    "convert_yolo_to_coco.py": convert_yolo_to_coco.build_parser,
}
UNNAMED_GROUPS = ("positional arguments", "options", "optional arguments")
DEFAULT_IN_HELP = re.compile(r" \(default:? %\(default\)s\)")  # it has a column
# Defaults that depend on the machine, in words.
TRAINER_WORKERS = "half the cores, at most 8; up to two cores without a GPU: 0"
DEFAULTS_IN_WORDS = {
    ("train_ssd.py", "workers"): TRAINER_WORKERS,
    ("eval_ssd.py", "workers"): TRAINER_WORKERS,
    ("train_mobilenetv2_ssd.py", "workers"): TRAINER_WORKERS,
    ("validate_image_files.py", "workers"): "all cores",
}


def page() -> str:
    """Return the whole page."""
    sections = [section(script, build_parser()) for script, build_parser in PARSERS.items()]
    return "\n".join([HEAD, *sections])


def section(script: str, parser: argparse.ArgumentParser) -> str:
    """Return a script's heading and table of flags, or one table for each group of its flags."""
    tables: dict[str, list[str]] = {}
    for group in parser._action_groups:
        title = "" if group.title in UNNAMED_GROUPS else f"### {group.title}\n\n"
        rows = [row(script, action) for action in group._group_actions if action.dest != "help"]
        tables.setdefault(title, []).extend(rows)
    head = "| flag | default | what it does |\n| --- | --- | --- |\n"
    parts = [title + head + "\n".join(rows) + "\n" for title, rows in tables.items() if rows]
    return "\n".join([f"## {script}\n", *parts])


def row(script: str, action: argparse.Action) -> str:
    """Return a flag's line of the table: its spellings and values, its default, its help."""
    value = ""
    if action.nargs != 0:
        value = " " + ("|".join(action.choices or []) or action.metavar or action.dest.upper())
    first, *others = action.option_strings or [""]
    spellings = [(first + value).strip(), *(other for other in others if other[:5] != "--no-")]
    default = DEFAULTS_IN_WORDS.get((script, action.dest), action.default)
    if isinstance(default, list | tuple):
        default = " ".join(map(str, default))
    if default is None or default is False:
        default = "required" if action.required else ""
    text = DEFAULT_IN_HELP.sub("", action.help) % vars(action)
    cells = [", ".join(f"`{spelling}`" for spelling in spellings), str(default), text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
