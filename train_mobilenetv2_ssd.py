#!/usr/bin/env python3
"""Finetune a MobileNetV2 SSD on a YOLO-style folder: the finetune recipe's command line.

    ./train_mobilenetv2_ssd.py --data-root finetune_dataset
    ./train_mobilenetv2_ssd.py --data-root finetune_dataset --weights-backbone imagenet \\
        --train-split finetune_dataset/splits/train.txt --val-split finetune_dataset/splits/val.txt

It is train_ssd.py with the network mb2-ssd and this recipe's defaults, and takes the flags of
train_ssd.py, too. The output folder holds checkpoint_last.pt, checkpoint_best.pt (by COCO AP on the
val split), metrics.jsonl and config.json; continue with train_ssd.py --resume
runs/mobilenetv2_ssd. The data set folder is only read.
"""

import argparse

import train_ssd
from vision.args import default_workers
from vision.command_line import FamilyParser

RECIPE = ["--net=mb2-ssd", "--dataset-type=yolo"]


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the recipe's flags."""
    parser = FamilyParser(
        prog="train_mobilenetv2_ssd.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-root", default="finetune_dataset", metavar="ROOT",
        help="folder of images/, labels/, classes.txt and splits/")  # fmt: skip
    add("--train-split", metavar="FILE", help="image paths; default: splits/train.txt")
    add("--val-split", metavar="FILE", help="image paths; default: splits/val.txt")
    add("--image-size", default="320", metavar="SIZE", help="input in pixels, or HEIGHTxWIDTH")
    add("--epochs", type=int, default=50, metavar="N", help="epochs in all")
    add("--batch-size", type=int, default=8, metavar="N", help="images in a step")
    add("--lr", type=float, default=0.002, metavar="X", help="learning rate")
    add("--output-dir", default="runs/mobilenetv2_ssd", metavar="RUN", help="folder of the run")
    add("--weights-backbone", default="none", metavar="none|imagenet|FILE",
        help="trained MobileNetV2 for the backbone")  # fmt: skip
    add("--strict-labels", action="store_true",
        help="a bad label line or an unknown class id is an error")  # fmt: skip
    add("--workers", type=int, default=default_workers(), metavar="N",
        help="processes that load data")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N",
        help="random seed of weights, order and augmentation")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Turn the recipe's flags into train_ssd.py's, and train."""
    args, further = build_parser().parse_known_args(argv)
    flags = {
        "--datasets": args.data_root,
        "--train-split": args.train_split,
        "--val-split": args.val_split,
        "--image-size": args.image_size,
        "--epochs": args.epochs,
        "--batch-size": args.batch_size,
        "--lr": args.lr,
        "--checkpoint-folder": args.output_dir,
        "--base-net": args.weights_backbone,
        "--workers": args.workers,
        "--seed": args.seed,
    }
    given = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
    strict = ["--strict-labels"] if args.strict_labels else []
    return train_ssd.main([*RECIPE, *given, *strict, *further])


if __name__ == "__main__":
    raise SystemExit(main())
