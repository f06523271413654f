"""The flags of training."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from vision.command_line import FamilyParser
from vision.datasets.image_cache import CACHES
from vision.datasets.layouts.choose import DATASET_TYPES
from vision.engine.distributed import local_world_size
from vision.engine.optim import OPTIMIZERS, SCHEDULERS
from vision.engine.precision import PRECISIONS
from vision.ssd.models import MODELS
from vision.training.check_args import check_arguments, check_mode
from vision.transforms.presets import PRESETS

_PATHS = {
    "datasets",
    "validation_dataset",
    "base_net",
    "pretrained_ssd",
    "train_split",
    "val_split",
}

DEFAULT_LR = {"adamw": 0.002, "adam": 0.002, "sgd": 0.01}
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01, "adam": 0.0, "sgd": 5e-4}
TABLE_START = "<!-- flags: written by `python -m vision.args` -->"
TABLE_END = "<!-- end of flags -->"


def image_size(text: str) -> tuple[int, int]:
    """Read `300` or `HEIGHTxWIDTH` as (height, width)."""
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a size nor HEIGHTxWIDTH")
    return (sides[0], sides[-1])


def default_workers() -> int:
    """One process for data per two cores, up to eight: the network needs the cores more.

    None for up to two cores without a GPU: a step then waits longer for the core that such a
    process takes than the training process takes to load a batch on both.
    """
    cores = (os.cpu_count() or 1) // local_world_size()
    if cores <= 2 and not torch.cuda.is_available():
        return 0
    return max(1, min(8, cores // 2))


def build_train_parser(**kwargs) -> argparse.ArgumentParser:
    """Build the parser of train_ssd.py; `kwargs` go to ArgumentParser."""
    parser = FamilyParser(
        prog="train_ssd.py", formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
    )
    _add_data_flags(parser.add_argument_group("data"))
    _add_network_flags(parser.add_argument_group("network"))
    _add_recipe_flags(parser.add_argument_group("recipe"))
    _add_run_flags(parser.add_argument_group("run"))
    return parser


def _add_data_flags(group) -> None:
    add = group.add_argument
    add("--dataset-type", choices=DATASET_TYPES, default="auto",
        help="layout of --datasets; auto: as recognised")  # fmt: skip
    add("--datasets", "--dataset", "--data", nargs="+", metavar="ROOT",
        help="data set folders (annotations/ and images); several are joined")  # fmt: skip
    add("--validation-dataset", metavar="ROOT", help="folder of the val split, if another")
    add("--train-split", metavar="FILE", help="yolo: file of training image paths")
    add("--val-split", metavar="FILE", help="yolo: file of validation image paths")
    add("--strict-labels", action=argparse.BooleanOptionalAction, default=False,
        help="yolo: a bad label line or an unknown class id is an error")  # fmt: skip
    add("--augmentation", choices=tuple(PRESETS), default="ssd", help="training transforms")
    add("--cache", choices=CACHES, default="none",
        help="keep training images decoded, in shared memory or a file; sides over 1.5 times "
        "the network's are shrunk to that, so crops below 2/3 of a side lose detail")  # fmt: skip
    add("--workers", "--num-workers", type=int, default=default_workers(), metavar="N",
        help="processes that load data, for each that trains; 0: its own threads")  # fmt: skip


def _add_network_flags(group) -> None:
    add = group.add_argument
    add("--net", choices=tuple(MODELS), default="mb2-ssd-lite", help="network")
    add("--image-size", "--resolution", type=image_size, metavar="SIZE",
        help="input in pixels, 300 or HEIGHTxWIDTH; default: the network's own")  # fmt: skip
    add("--mb2-width-mult", type=float, default=1.0, metavar="X",
        help="channels of the backbone over MobileNetV2's")  # fmt: skip
    add("--prior-sizes", type=float, nargs=7, metavar="S",
        help="sizes of the priors as shares of the image; default: the network's own")  # fmt: skip
    add("--base-net", default="none", metavar="FILE|imagenet|none",
        help="trained MobileNetV2 for the backbone")  # fmt: skip
    add("--pretrained-ssd", metavar="FILE", help="trained detector to start from")
    add("--freeze-base-net", action=argparse.BooleanOptionalAction, default=False,
        help="do not train the backbone")  # fmt: skip
    add("--freeze-net", action=argparse.BooleanOptionalAction, default=False,
        help="train the prediction heads only")  # fmt: skip


def _add_recipe_flags(group) -> None:
    add = group.add_argument
    add("--epochs", "--num-epochs", type=int, default=30, metavar="N", help="epochs in all")
    add("--batch-size", type=int, default=16, metavar="N",
        help="images a step, over all processes")  # fmt: skip
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="optimizer")
    add("--lr", "--learning-rate", type=float, metavar="X",
        help="learning rate; default: 0.002, with sgd 0.01")  # fmt: skip
    add("--base-net-lr", type=float, metavar="X", help="of the backbone; default --lr")
    add("--extra-layers-lr", type=float, metavar="X", help="of the extra layers; default --lr")
    add("--momentum", type=float, default=0.9, metavar="X", help="of SGD")
    add("--weight-decay", type=float, metavar="X",
        help="penalty on weights; default: adamw 0.01, sgd 0.0005, adam 0")  # fmt: skip
    add("--scheduler", choices=SCHEDULERS, default="cosine", help="learning rate over the run")
    add("--warmup-epochs", type=float, default=1.0, metavar="X",
        help="epochs over which the rate first grows")  # fmt: skip
    add("--milestones", type=float, nargs="+", default=[20.0, 26.0], metavar="EPOCH",
        help="multi-step: epochs after which the rate is multiplied by --gamma")  # fmt: skip
    add("--gamma", type=float, default=0.1, metavar="X", help="multi-step: factor")
    add("--clip-grad-norm", type=float, default=0.0, metavar="X",
        help="largest norm of the gradient; 0: no limit")  # fmt: skip
    add("--ema", type=float, default=0.0, metavar="DECAY",
        help="evaluate averaged weights, decay such as 0.999; 0: no average")  # fmt: skip
    add("--iou-threshold", type=float, default=0.4, metavar="X",
        help="overlap from which a prior is positive")  # fmt: skip
    add("--neg-pos-ratio", type=float, default=3.0, metavar="X",
        help="hard negatives a positive")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of weights, order and augmentation")
    add("--on-nonfinite", choices=("stop", "skip"), default="stop",
        help="when loss or gradient is not finite; skip stops after 10 in a row")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="auto",
        help="of the network's training step; auto: bf16 where the hardware has it")  # fmt: skip
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: torch's choice")
    add("--sync-bn", action=argparse.BooleanOptionalAction, default=False,
        help="several processes: BatchNorm over the whole batch, not a part of it")  # fmt: skip


def _add_run_flags(group) -> None:
    add = group.add_argument
    add("--checkpoint-folder", "--model-dir", metavar="RUN", help="folder of the run, new or empty")
    add("--resume", metavar="RUN", help="continue a run: its folder, or one of its checkpoints")
    add("--force-override", action="store_true", help="with --resume: let any flag change")
    add("--eval-every", "--validation-epochs", type=int, default=1, metavar="N",
        help="epochs between validations; 0: only after the last")  # fmt: skip
    add("--checkpoint-every-steps", type=int, default=0, metavar="N",
        help="also save inside an epoch; 0: do not")  # fmt: skip
    add("--checkpoint-every-minutes", type=float, default=0.0, metavar="M",
        help="also save inside an epoch; 0: do not")  # fmt: skip
    add("--keep-last", type=int, default=0, metavar="K",
        help="epoch checkpoints to keep, besides the best; 0: all")  # fmt: skip
    add("--on-save-error", choices=("stop", "continue"), default="stop",
        help="when a checkpoint cannot be written")  # fmt: skip
    add("--tensorboard", action=argparse.BooleanOptionalAction, default=False,
        help="also log to RUN/tensorboard")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--profile", action="store_true",
        help="trace a few steps, and say what limits the run")  # fmt: skip
    add("--dry-run", action="store_true",
        help="one batch end to end: shapes, counts, and a picture of what is learned")  # fmt: skip
    add("--overfit", type=int, default=0, metavar="N",
        help="check that network, loss and decoding can learn N images")  # fmt: skip


def parse_train_args(argv: Sequence[str] | None, **kwargs) -> tuple[argparse.Namespace, set[str]]:
    """Parse the flags of train_ssd.py.

    Returns:
        The arguments, and the names of those that were given.
    """
    parser = build_train_parser(**kwargs)
    args = parser.parse_args(argv)
    given = set(vars(_without_defaults().parse_args(argv)))
    _absolute_paths(args)
    if args.lr is None:
        args.lr = DEFAULT_LR[args.optimizer]
    if args.weight_decay is None:
        args.weight_decay = DEFAULT_WEIGHT_DECAY[args.optimizer]
    check_mode(parser, args)
    if not args.resume:
        check_arguments(parser, args)
    return args, given


def _without_defaults() -> argparse.ArgumentParser:
    parser = build_train_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


def _absolute_paths(args: argparse.Namespace) -> None:
    """Make paths independent of the folder that a later --resume is called from."""
    for name in _PATHS:
        value = getattr(args, name)
        if isinstance(value, list):
            setattr(args, name, [str(Path(item).absolute()) for item in value])
        elif value and value not in ("none", "imagenet"):
            setattr(args, name, str(Path(value).absolute()))


def flag_table() -> str:
    """Return the flags of train_ssd.py as a Markdown table, for the README."""
    lines = ["| flag | default | what it does |", "| --- | --- | --- |"]
    for action in build_train_parser()._actions:
        if action.dest == "help":
            continue
        value = f" {action.metavar}" if action.metavar else ""
        if action.choices:
            value = " " + "|".join(action.choices)
        default = "" if action.default is None or action.default is False else action.default
        if isinstance(default, list):
            default = " ".join(map(str, default))
        if action.dest == "workers":
            default = "half the cores; on two, without a GPU, 0"
        flag = f"{action.option_strings[0]}{value}".replace("|", "\\|")
        lines.append(f"| `{flag}` | {default} | {action.help} |")
    return "\n".join(lines)


def write_flag_table(readme: Path) -> None:
    """Put the table between the marks in the README."""
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(TABLE_START)
    _, tail = rest.split(TABLE_END)
    readme.write_text(
        f"{head}{TABLE_START}\n\n{flag_table()}\n\n{TABLE_END}{tail}", encoding="utf-8"
    )


if __name__ == "__main__":
    write_flag_table(Path(__file__).parent.parent / "README.md")
