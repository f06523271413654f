"""The flags that name a data set and say how it is read, declared once for all scripts."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vision.command_line import flag_of
from vision.datasets.box_forms import BOX_FORMS
from vision.datasets.layouts.choose import DATASET_TYPES, check_options_used, open_folder
from vision.datasets.layouts.coco import CocoPairs
from vision.datasets.layouts.layout import Layout, OpenOptions
from vision.datasets.yolo_formats import LABEL_FORMATS

# {name: what argparse and `vision.args.flag` take}; a switch has `read`.
READING: dict[str, dict[str, Any]] = {
    "dataset_type": {
        "default": "auto",
        "help": "layout of the data set; auto looks at what lies there",
        "choices": DATASET_TYPES,
    },
    "boxes": {
        "default": None,
        "help": "coco: what the numbers of a bbox are; default: xywh, or an error where they look "
        "like something else",
        "choices": BOX_FORMS,
    },
    "label_format": {
        "default": "auto",
        "help": "yolo: what a label row holds; auto: by its length",
        "choices": LABEL_FORMATS,
    },
    "use_difficult": {
        "default": False,
        "help": "voc: train on objects marked difficult, too; validation ignores them",
        "read": bool,
    },
    "one_based": {
        "default": False,
        "help": "voc: pixels are counted from 1, so 1 is subtracted from all coordinates, as "
        "qfgaohao's pytorch-ssd does",
        "read": bool,
    },
}
_OPTIONS = ("strict_labels", "label_format", "boxes", "use_difficult", "one_based")
_PAIRS = ("train", "val")


def add_data_flags(
    parser: argparse.ArgumentParser, about: str, *, pairs: Sequence[str] = ("val",)
) -> None:
    """Add the flags that name a data set and say how it is read.

    Args:
        parser: of a script that has no other flags for it.
        about: what the data set is for, behind "data set folder" in the help.
        pairs: the splits that may be a COCO file and a folder of images instead.
    """
    add = parser.add_argument
    add("--dataset", "--datasets", metavar="ROOT", help=f"data set folder{about}")
    for split in pairs:
        help = f"COCO annotations of the {split} split, instead of --dataset"
        add(f"--{split}-json", metavar="FILE", help=help)
        add(f"--{split}-images", metavar="DIR", help=f"the images of --{split}-json")
    help = "yolo: file of image paths, instead of the folder's val split"
    add("--val-split", metavar="FILE", help=help)
    add_reading_flags(parser)


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a data set is read."""
    for name, about in READING.items():
        options = {key: value for key, value in about.items() if key != "read"}
        options |= {"action": "store_true"} if "read" in about else {}
        parser.add_argument(flag_of(name), **options)


def check_data_flags(
    parser: argparse.ArgumentParser, args: argparse.Namespace, *, needed: bool = True
) -> None:
    """End the program with exit code 2 where the flags name no data set, or more than one."""
    for split in _PAIRS:
        if bool(_named(args, split, "json")) != bool(_named(args, split, "images")):
            parser.error(f"--{split}-json FILE and --{split}-images DIR belong together")
    pairs = _pairs_of(args)
    first = next(iter(pairs), "val")
    if args.dataset and pairs:
        parser.error(f"--dataset and --{first}-json both name the data; give one of them")
    if needed and not args.dataset and not pairs:
        parser.error("--dataset ROOT is needed, or --val-json FILE with --val-images DIR")
    if args.val_split and not args.dataset:
        parser.error("--val-split FILE is the val split of --dataset ROOT, which is not given")
    if pairs and args.dataset_type not in ("auto", "coco"):
        parser.error(f"--dataset-type {args.dataset_type}: --{first}-json is a file of COCO's")


def reading_options(args: Any) -> OpenOptions:
    """Return how data are read, from TrainArguments or the flags of `add_reading_flags`."""
    return OpenOptions(**{name: getattr(args, name) for name in _OPTIONS if hasattr(args, name)})


def open_dataset(args: argparse.Namespace, *, split: str) -> Layout:
    """Find the data set that the flags of `add_data_flags` name; `split` is wanted of it first.

    Raises:
        OSError, ValueError: as `open_folder`; or a flag says how to read another layout.
    """
    lists = {"val": args.val_split} if args.val_split else {}
    options, pairs = replace(reading_options(args), split_files=lists), _pairs_of(args)
    if pairs:
        folder: Layout = CocoPairs(pairs, options)
    else:
        folder = open_folder(args.dataset, split=split, layout=args.dataset_type, options=options)
    check_options_used(options, folder.takes, where=f"{data_name(args)}: {folder.title} layout")
    return folder


def data_name(args: argparse.Namespace) -> str:
    """The data set, for messages."""
    return args.dataset or " ".join(file for file, _ in _pairs_of(args).values())


def data_words(args: argparse.Namespace) -> list[str]:
    """The flags by which another command reads the same images and boxes."""
    if args.dataset:
        words = ["--dataset", args.dataset]
        words += ["--dataset-type", args.dataset_type] * (args.dataset_type != "auto")
        words += ["--val-split", args.val_split] * bool(args.val_split)
    else:
        words = [
            word
            for split, (file, folder) in _pairs_of(args).items()
            for word in (f"--{split}-json", file, f"--{split}-images", folder)
        ]
    return words + reading_options(args).words()


def _pairs_of(args: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """{split: (annotation file, image folder)} of what is named."""
    pairs = {s: (_named(args, s, "json"), _named(args, s, "images")) for s in _PAIRS}
    return {split: pair for split, pair in pairs.items() if all(pair)}


def _named(args: argparse.Namespace, split: str, what: str) -> str | None:
    return getattr(args, f"{split}_{what}", None)
