"""The train and val splits that the arguments name."""

import argparse
import logging

from vision.datasets.coco import check_same_categories
from vision.training.data import Sources, describe, open_coco, open_yolo

logger = logging.getLogger(__name__)


def open_sources(args: argparse.Namespace) -> tuple[Sources, Sources]:
    """Read the annotations of the train and val splits; the latter may be empty.

    Raises:
        ValueError: no train split, nothing to learn in it, or data sets of different classes.
    """
    train, val = _open_yolo(args) if args.dataset_type == "yolo" else _open_coco(args)
    check_same_categories([index for index, _ in [*train, *val]])
    for split, sources in (("train", train), ("val", val)):
        for line in describe(split, sources) if sources else [f"no {split} split: no AP, no best"]:
            logger.info(line)
    if not any(index.trainable.any() for index, _ in train):
        files = ", ".join(index.annotation_file for index, _ in train)
        raise ValueError(f"{files}: no box to train on; is it the right file?")
    return train, val


def _open_coco(args: argparse.Namespace) -> tuple[Sources, Sources]:
    train = open_coco(args.datasets, "train")
    if args.validation_dataset:
        return train, open_coco([args.validation_dataset], "val")
    return train, open_coco(args.datasets, "val", is_optional=True)


def _open_yolo(args: argparse.Namespace) -> tuple[Sources, Sources]:
    lists = {"train": args.train_split, "val": args.val_split}
    sources = open_yolo(args.datasets, split_lists=lists, strict_labels=args.strict_labels)
    if args.validation_dataset:
        others = open_yolo(
            [args.validation_dataset],
            split_lists={"val": args.val_split},
            strict_labels=args.strict_labels,
        )
        if "val" not in others:
            raise ValueError(
                f"{args.validation_dataset}: no val split there; --val-split names one"
            )
        sources["val"] = others["val"]
    if "train" not in sources:
        raise ValueError(f"{args.datasets[0]}: no train split there; --train-split names one")
    return sources["train"], sources.get("val", [])
