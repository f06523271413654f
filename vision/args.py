"""The flags of train_ssd.py, declared once.

A field of TrainArguments is a flag: it gives the parser its spelling, type and help, a run's
config.json its saved form, and --resume its rule of what may change.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vision.command_line import MOST_WORKERS, FamilyParser, flag_of, image_size
from vision.data_flags import READING
from vision.datasets.image_cache import CACHES
from vision.engine.distributed import local_world_size
from vision.engine.loggers import LOGGERS
from vision.engine.optim import DEFAULT_STEPS, OPTIMIZERS, SCHEDULERS
from vision.engine.precision import PRECISIONS
from vision.ops.tiles import MAX_TILES
from vision.ssd.models import MODELS
from vision.ssd.network import RESIZES, WIDTHS
from vision.transforms.presets import PRESETS

DEFAULT_LR = {"adamw": 0.004, "adam": 0.002, "sgd": 0.01}
# Without --epochs, a run has as many as reach DEFAULT_STEPS, within these; see docs/recipes.md.
FEWEST_EPOCHS, MOST_EPOCHS = 30, 300
DEFAULT_VOTING = 0.6  # IoU; 0.5 to 0.7 give the same, see docs/recipes.md
LIGHT_UP_TO = 40  # epochs; with more of them images need stronger augmentation
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01, "adam": 0.0, "sgd": 5e-4}
_OTHER_RATES = "".join(
    f"; {network.lr_scale:g} of that for {name}"
    for name, network in MODELS.items()
    if network.lr_scale != 1
)
# The flags that each --recipe sets; docs/recipes.md says why, and what was measured.
RECIPES: dict[str, dict[str, Any]] = {
    "small": {"net": "mb2-ssd-lite-fpn", "cache": "ram", "keep_last": 5},
    "coco": {
        "image_size": (320, 320), "epochs": 600, "batch_size": 192, "optimizer": "sgd", "lr": 0.015,
        "weight_decay": 4e-5, "iou_threshold": 0.5, "eval_every": 10, "keep_last": 5,
    },
    "small-objects": {"net": "mb2-ssd-lite-fpn", "image_size": (448, 448)},
}  # fmt: skip
WORDS_FOR_WEIGHTS = ("none", "imagenet", "torchvision")

# What --resume does about a flag whose value differs from the saved one.
REFUSED = "refused"  # unless forced: it decides what the run computes
FREE = "free"  # it decides where and how long training runs, not what it computes
CHECKED = "checked"  # accepted once the classes have been compared
NOT_SAVED = "not saved"  # says what this call is to do


def absolute_path(text: str) -> str:
    """Make a path independent of the folder that a later --resume is called from."""
    return str(Path(text).absolute())


def weights_source(text: str) -> str:
    """Keep a word for weights; make a file's path absolute."""
    return text if text in WORDS_FOR_WEIGHTS else absolute_path(text)


def priors_source(text: str) -> str:
    """Keep a word for priors; make a file's path absolute."""
    return text if text in ("auto", "fit", "default") else absolute_path(text)


@dataclass(frozen=True)
class Limits:
    """Which values a flag takes, and how a refusal says it."""

    words: str
    holds: Callable[[float], bool]


MOST = 10**9  # larger numbers are typing errors, and some overflow what computes with them
MORE_THAN_0 = Limits("more than 0, a billion at most", lambda x: 0 < x <= MOST)
FROM_0 = Limits("0 or more, a billion at most", lambda x: 0 <= x <= MOST)
LEARNING_RATES = Limits("more than 0", lambda x: 0 < x < math.inf)
WORKERS = Limits(f"0 or more, {MOST_WORKERS} at most", lambda x: 0 <= x <= MOST_WORKERS)
FROM_0_BELOW_1 = Limits("0 or more and less than 1", lambda x: 0 <= x < 1)
ABOVE_0_TO_1 = Limits("more than 0 and 1 or less", lambda x: 0 < x <= 1)
BACKBONE_WIDTHS = Limits(
    f"between {WIDTHS[0]:g} and {WIDTHS[1]:g}", lambda x: WIDTHS[0] <= x <= WIDTHS[1]
)
SEEDS = Limits("0 or more and less than 2**63", lambda x: 0 <= x < 2**63)
TILES = Limits(f"1 to {MAX_TILES}", lambda x: 1 <= x <= MAX_TILES)
OVERFIT_IMAGES = Limits(
    "2 or more, since a batch has 2 images or more", lambda x: x == 0 or 2 <= x <= MOST
)
BATCHES = Limits(
    "2 or more: the last feature map is 1x1, and BatchNorm cannot be trained on the one value a "
    "channel that a single image gives",
    lambda x: 2 <= x <= MOST,
)


def flag(
    default: Any,
    help: str,
    *aliases: str,
    read: Callable[[str], Any] = str,
    group: str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    nargs: int | str | None = None,
    limits: Limits | None = None,
    resume: str = REFUSED,
) -> Any:
    """Declare a flag as a field of TrainArguments.

    Args:
        default: without the flag. None: left out, or filled in by `resolved`.
        help: one line; says the unit.
        aliases: other spellings, such as those of qfgaohao's pytorch-ssd and its forks.
        read: turns the text into the value; bool for a switch.
        group: heading in the help.
        metavar: stands for the value in the help.
        choices: the values there are.
        nargs: how many values, as argparse takes it; they are kept as a tuple.
        limits: of a number, or of each.
        resume: what --resume does about another value.
    """
    metadata = {
        "help": help, "aliases": aliases, "read": read, "group": group, "metavar": metavar,
        "choices": choices, "nargs": nargs, "limits": limits, "resume": resume,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What train_ssd.py is told; the fields, in this order, are its flags."""

    dataset_type: str = flag(**READING["dataset_type"], resume=CHECKED, group="data")
    datasets: tuple[str, ...] | None = flag(
        None, "data set folders; several are joined", "--dataset", "--data",
        read=absolute_path, nargs="+", metavar="ROOT", resume=CHECKED, group="data")  # fmt: skip
    validation_dataset: str | None = flag(
        None, "folder of the val split, if another",
        read=absolute_path, metavar="ROOT", resume=CHECKED, group="data")  # fmt: skip
    train_split: str | None = flag(
        None, "yolo: file of training image paths",
        read=absolute_path, metavar="FILE", resume=CHECKED, group="data")  # fmt: skip
    val_split: str | None = flag(
        None, "yolo: file of validation image paths",
        read=absolute_path, metavar="FILE", resume=CHECKED, group="data")  # fmt: skip
    train_json: tuple[str, ...] | None = flag(
        None, "COCO annotation files to train on, besides or instead of --datasets",
        read=absolute_path, nargs="+", metavar="FILE", resume=CHECKED, group="data")  # fmt: skip
    train_images: tuple[str, ...] | None = flag(
        None, "the images of --train-json: one folder, or one for each file",
        read=absolute_path, nargs="+", metavar="DIR", resume=CHECKED, group="data")  # fmt: skip
    val_json: tuple[str, ...] | None = flag(
        None, "COCO annotation files to validate on, instead of the val splits",
        read=absolute_path, nargs="+", metavar="FILE", resume=CHECKED, group="data")  # fmt: skip
    val_images: tuple[str, ...] | None = flag(
        None, "the images of --val-json",
        read=absolute_path, nargs="+", metavar="DIR", resume=CHECKED, group="data")  # fmt: skip
    boxes: str | None = flag(**READING["boxes"], resume=CHECKED, group="data")
    label_format: str = flag(**READING["label_format"], resume=CHECKED, group="data")
    use_difficult: bool = flag(**READING["use_difficult"], resume=CHECKED, group="data")
    one_based: bool = flag(**READING["one_based"], resume=CHECKED, group="data")
    balance_data: bool = flag(
        False, "train on about as many images of each class as the rarest has",
        read=bool, group="data")  # fmt: skip
    strict_labels: bool = flag(
        False, "yolo: a bad label line or an unknown class id is an error",
        read=bool, group="data")  # fmt: skip
    augmentation: str | None = flag(
        None, f"training transforms; default: light for --epochs up to {LIGHT_UP_TO}, else ssd, as "
        "in the paper", choices=tuple(PRESETS), group="data")  # fmt: skip
    resize: str = flag(
        "linear", "how images are brought to the input's size; point: one pixel each, as NVIDIA's "
        "detectNet does on a Jetson",
        choices=RESIZES, group="data")  # fmt: skip
    tiles: int = flag(
        1, "photos much larger than the input: look at each whole and in N x N overlapping tiles, "
        "in training, validation and prediction", read=int, metavar="N", limits=TILES,
        group="data")  # fmt: skip
    cache: str = flag(
        "none", "keep training images decoded, in shared memory or a file; sides over 1.5 times "
        "the network's are shrunk to that, so crops below 2/3 of a side lose detail",
        choices=CACHES, group="data")  # fmt: skip
    workers: int | None = flag(
        None, "processes that load data, for each that trains; 0: its own threads; "
        "default: half the cores, 8 at most; on two or fewer without a GPU 0", "--num-workers",
        read=int, metavar="N", limits=WORKERS, resume=FREE, group="data")  # fmt: skip

    net: str = flag("mb2-ssd-lite", "network", choices=tuple(MODELS), group="network")
    image_size: tuple[int, int] | None = flag(
        None, "input in pixels, 300 or HEIGHTxWIDTH; default: the network's own", "--resolution",
        read=image_size, metavar="SIZE", group="network")  # fmt: skip
    mb2_width_mult: float = flag(
        1.0, "channels of the backbone over MobileNetV2's",
        read=float, metavar="X", limits=BACKBONE_WIDTHS, group="network")  # fmt: skip
    priors: str = flag(
        "auto", "shapes of the priors: default (the network's own), fit (to the training boxes), "
        "auto (fitted where that covers clearly more boxes), or a run or file that has them",
        read=priors_source, metavar="auto|fit|default|FILE", group="network")  # fmt: skip
    box_voting: float = flag(
        DEFAULT_VOTING, "a detection moves to the mean of the boxes of its class with a higher IoU "
        "than this, weighted by their scores; 0: it stays",
        read=float, metavar="IOU", limits=FROM_0_BELOW_1, group="network")  # fmt: skip
    prior_sizes: tuple[float, ...] | None = flag(
        None, "growing sizes of the priors, as shares of the image's shorter side: one more than "
        "the network has maps, seven for most; default: the network's own",
        read=float, nargs="+", metavar="S", group="network")  # fmt: skip
    base_net: str = flag(
        "none", "trained weights for the backbone", read=weights_source,
        metavar="FILE|imagenet|none", resume=FREE, group="network")  # fmt: skip
    pretrained_ssd: str | None = flag(
        None, "trained detector to start from; torchvision: its weights of the network from COCO",
        read=weights_source, metavar="FILE|torchvision", resume=FREE, group="network")  # fmt: skip
    freeze_base_net: bool = flag(False, "do not train the backbone", read=bool, group="network")
    freeze_net: bool = flag(False, "train the prediction heads only", read=bool, group="network")

    recipe: str | None = flag(
        None, "set the flags that suit such data, and save them as if they had been given; flags "
        "beside it win: docs/recipes.md",
        choices=tuple(RECIPES), resume=NOT_SAVED, group="recipe")  # fmt: skip
    epochs: int | None = flag(
        None, f"epochs in all; default: as many as reach {DEFAULT_STEPS} steps, {FEWEST_EPOCHS} to "
        f"{MOST_EPOCHS}, fewer if --max-hours has no time for them", "--num-epochs",
        read=int, metavar="N", limits=MORE_THAN_0, resume=FREE, group="recipe")  # fmt: skip
    max_hours: float = flag(
        0.0, "hours after which this call stops, saved; --epochs left out is planned for them; "
        "0: no limit",
        read=float, metavar="H", limits=FROM_0, resume=FREE, group="recipe")  # fmt: skip
    patience: int = flag(
        0, "stop when val AP has not risen for N validations; 0: do not",
        read=int, metavar="N", limits=FROM_0, resume=FREE, group="recipe")  # fmt: skip
    batch_size: int = flag(
        16, "images in a step, over all processes",
        read=int, metavar="N", limits=BATCHES, group="recipe")  # fmt: skip
    optimizer: str = flag("adamw", "optimizer", choices=OPTIMIZERS, group="recipe")
    lr: float | None = flag(
        None, f"learning rate; default: adamw 0.004, adam 0.002, sgd 0.01{_OTHER_RATES}",
        "--learning-rate",
        read=float, metavar="X", limits=LEARNING_RATES, group="recipe")  # fmt: skip
    base_net_lr: float | None = flag(
        None, "learning rate of the backbone; default: --lr",
        read=float, metavar="X", limits=FROM_0, group="recipe")  # fmt: skip
    extra_layers_lr: float | None = flag(
        None, "learning rate of the extra layers; default: --lr",
        read=float, metavar="X", limits=FROM_0, group="recipe")  # fmt: skip
    momentum: float = flag(
        0.9, "momentum of SGD",
        read=float, metavar="X", limits=FROM_0_BELOW_1, group="recipe")  # fmt: skip
    weight_decay: float | None = flag(
        None, "penalty on weights; default: adamw 0.01, sgd 0.0005, adam 0",
        read=float, metavar="X", limits=FROM_0, group="recipe")  # fmt: skip
    scheduler: str = flag(
        "cosine", "learning rate over the run", choices=SCHEDULERS, group="recipe")  # fmt: skip
    warmup_epochs: float = flag(
        1.0, "epochs over which the rate first grows",
        read=float, metavar="X", limits=FROM_0, group="recipe")  # fmt: skip
    milestones: tuple[float, ...] = flag(
        (20.0, 26.0), "multi-step: epochs after which the rate is multiplied by --gamma",
        read=float, nargs="+", metavar="EPOCH", limits=FROM_0, group="recipe")  # fmt: skip
    gamma: float = flag(
        0.1, "multi-step: factor",
        read=float, metavar="X", limits=MORE_THAN_0, group="recipe")  # fmt: skip
    clip_grad_norm: float = flag(
        0.0, "largest norm of the gradient; 0: no limit",
        read=float, metavar="X", limits=FROM_0, group="recipe")  # fmt: skip
    ema: float = flag(
        0.0, "evaluate averaged weights, decay such as 0.999; 0: no average",
        read=float, metavar="DECAY", limits=FROM_0_BELOW_1, group="recipe")  # fmt: skip
    iou_threshold: float = flag(
        0.4, "overlap from which a prior is positive",
        read=float, metavar="X", limits=ABOVE_0_TO_1, group="recipe")  # fmt: skip
    neg_pos_ratio: float = flag(
        3.0, "hard negatives for each positive prior",
        read=float, metavar="X", limits=MORE_THAN_0, group="recipe")  # fmt: skip
    seed: int = flag(
        0, "random seed of weights, order and augmentation",
        read=int, metavar="N", limits=SEEDS, group="recipe")  # fmt: skip
    on_nonfinite: str = flag(
        "stop", "when loss or gradient is not finite; skip stops after 10 in a row",
        choices=("stop", "skip"), group="recipe")  # fmt: skip
    precision: str = flag(
        "auto", "number format of the training step; auto: bf16 where the hardware has it",
        choices=PRECISIONS, group="recipe")  # fmt: skip
    threads: int = flag(
        0, "CPU threads; 0: torch's choice",
        read=int, metavar="N", limits=WORKERS, group="recipe")  # fmt: skip
    sync_bn: bool = flag(
        False, "several processes: BatchNorm over the whole batch, not a part of it",
        read=bool, group="recipe")  # fmt: skip

    checkpoint_folder: str | None = flag(
        None, "folder of the run, new or empty", "--model-dir",
        metavar="RUN", resume=NOT_SAVED, group="run")  # fmt: skip
    resume: str | None = flag(
        None, "continue a run: its folder, or one of its checkpoints",
        metavar="RUN", resume=NOT_SAVED, group="run")  # fmt: skip
    force_override: bool = flag(
        False, "with --resume: let any flag change",
        read=bool, resume=NOT_SAVED, group="run")  # fmt: skip
    eval_every: int = flag(
        1, "epochs between validations; 0: only after the last", "--validation-epochs",
        read=int, metavar="N", limits=FROM_0, group="run")  # fmt: skip
    checkpoint_every_steps: int = flag(
        0, "also save inside an epoch; 0: do not",
        read=int, metavar="N", limits=FROM_0, resume=FREE, group="run")  # fmt: skip
    checkpoint_every_minutes: float = flag(
        0.0, "also save inside an epoch; 0: do not",
        read=float, metavar="M", limits=FROM_0, resume=FREE, group="run")  # fmt: skip
    keep_last: int = flag(
        0, "epoch checkpoints to keep, besides the best; 0: all",
        read=int, metavar="K", limits=FROM_0, resume=FREE, group="run")  # fmt: skip
    on_save_error: str = flag(
        "stop", "when a checkpoint cannot be written",
        choices=("stop", "continue"), resume=FREE, group="run")  # fmt: skip
    tensorboard: bool = flag(
        False, "the same as --logger tensorboard", read=bool, resume=FREE, group="run")  # fmt: skip
    logger: tuple[str, ...] = flag(
        (), "also log to tensorboard (in RUN), trackio, wandb, mlflow, where installed",
        choices=tuple(LOGGERS), nargs="*", resume=FREE, group="run")  # fmt: skip
    min_precision: float | None = flag(
        None, "keep in checkpoints, besides each class's score of best F1, the lowest of this "
        "precision on the val split",
        read=float, metavar="X", limits=ABOVE_0_TO_1, resume=FREE, group="run")  # fmt: skip
    report: bool = flag(
        True, "write RUN/report.html after validations and at the end",
        read=bool, resume=FREE, group="run")  # fmt: skip
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps", resume=FREE, group="run")
    profile: bool = flag(
        False, "trace a few steps, and say what limits the run",
        read=bool, resume=NOT_SAVED, group="run")  # fmt: skip
    dry_run: bool = flag(
        False, "one batch end to end: shapes, counts, and a picture of what is learned",
        read=bool, resume=NOT_SAVED, group="run")  # fmt: skip
    overfit: int = flag(
        0, "check that network, loss and decoding can learn N images",
        read=int, metavar="N", limits=OVERFIT_IMAGES, resume=NOT_SAVED, group="run")  # fmt: skip

    def resolved(self) -> "TrainArguments":
        """Fill in the defaults that follow from the network, the optimizer or the machine."""
        defaults = {
            "image_size": MODELS[self.net].image_size,
            "augmentation": "light" if self.epochs and self.epochs <= LIGHT_UP_TO else "ssd",
            "lr": DEFAULT_LR[self.optimizer] * MODELS[self.net].lr_scale,
            "weight_decay": DEFAULT_WEIGHT_DECAY[self.optimizer],
            "workers": default_workers(),
        }
        missing = {name: x for name, x in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


FLAGS = {field.name: field for field in dataclasses.fields(TrainArguments)}


def default_workers() -> int:
    """One process for data per two cores, up to eight: the network needs the cores more.

    None for up to two cores without a GPU: a step then waits longer for the core that such a
    process takes than the training process takes to load a batch on both.
    """
    cores = (os.cpu_count() or 1) // local_world_size()
    if cores <= 2 and not torch.cuda.is_available():
        return 0
    return max(1, min(8, cores // 2))


def recipe_flags(recipe: str, given: Collection[str]) -> str:
    """Write the flags that a recipe sets; not those that were `given` beside it."""
    set_here = {name: x for name, x in RECIPES[recipe].items() if name not in given}
    return " ".join(
        f"{flag_of(name)} {'x'.join(map(str, x)) if isinstance(x, tuple) else x}"
        for name, x in set_here.items()
    )


def build_train_parser(**kwargs: Any) -> FamilyParser:
    """Build the parser of train_ssd.py; `kwargs` go to ArgumentParser."""
    parser = FamilyParser(
        prog="train_ssd.py", formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
    )
    groups: dict[str, Any] = {}
    for name, field in FLAGS.items():
        about = field.metadata
        if about["group"] not in groups:
            groups[about["group"]] = parser.add_argument_group(about["group"])
        options: dict[str, Any] = {"default": field.default, "help": about["help"]}
        if about["read"] is bool:
            is_saved = about["resume"] != NOT_SAVED
            options["action"] = argparse.BooleanOptionalAction if is_saved else "store_true"
        else:
            options |= {"type": about["read"], "nargs": about["nargs"]}
            options |= {"choices": about["choices"], "metavar": about["metavar"]}
        groups[about["group"]].add_argument(flag_of(name), *about["aliases"], **options)
    return parser


def parse_train_args(argv: Sequence[str] | None, **kwargs: Any) -> tuple[TrainArguments, set[str]]:
    """Parse the flags of train_ssd.py; wrong usage ends the program with exit code 2.

    Returns:
        The arguments, and the names of those that were given.
    """
    parser = build_train_parser(**kwargs)
    absent = object()
    namespace = argparse.Namespace(**dict.fromkeys(FLAGS, absent))
    values = vars(parser.parse_args(argv, namespace))
    given = {name: value for name, value in values.items() if value is not absent}
    values = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
    args = TrainArguments(**RECIPES.get(given.get("recipe"), {}) | values)
    if not args.resume:
        args = args.resolved()
    problem = find_problem(args)
    if problem:
        parser.error(problem)
    return args, set(given)


def find_problem(args: TrainArguments) -> str | None:
    """Say which flag cannot work, by its value or beside others; None if all is well."""
    for name, field in FLAGS.items():
        limits, value = field.metadata["limits"], getattr(args, name)
        numbers = value if isinstance(value, tuple) else [value]
        if limits and not all(limits.holds(number) for number in numbers if number is not None):
            return f"{flag_of(name)} must be {limits.words}"
    if args.resume:
        if args.recipe:
            return "--recipe is for a new run; give single flags with --resume RUN"
        if args.dry_run or args.overfit:
            return "--dry-run and --overfit look at a new run; leave out --resume"
        path = Path(args.resume)
        if args.checkpoint_folder and Path(args.checkpoint_folder) not in (path, path.parent):
            return "--checkpoint-folder is for a new run; --resume RUN goes on in RUN"
    elif args.force_override:
        return "--force-override needs --resume RUN"
    elif not args.checkpoint_folder and not args.dry_run and not args.overfit:
        return "--checkpoint-folder RUN is needed (or --resume RUN)"
    elif not args.datasets and not args.train_json:
        return "--datasets ROOT is needed (or --train-json FILE --train-images DIR, --resume RUN)"
    elif args.prior_sizes and len(args.prior_sizes) != len(MODELS[args.net].priors) + 1:
        return f"--prior-sizes: {args.net} takes {len(MODELS[args.net].priors) + 1} growing sizes"
    for name in ("train", "val"):
        files, folders = (getattr(args, f"{name}_{what}") or () for what in ("json", "images"))
        if bool(files) != bool(folders) or len(folders) not in (0, 1, len(files)):
            return f"--{name}-json and --{name}-images: give one folder, or one for each file"
    if args.validation_dataset and args.val_json:
        return "--validation-dataset and --val-json both name the val split; give one of them"
    if args.patience and not args.eval_every:
        return "--patience counts validations, and --eval-every 0 has one, after the last epoch"
    for name in (*args.logger, *["tensorboard"] * args.tensorboard):
        if find_spec(name) is None:
            return f"--logger {name} needs a package that is not installed: pip install {name}"
    return None
