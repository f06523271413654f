"""Which values of the training flags, and which flags together, cannot work."""

import argparse
import math
from importlib.util import find_spec
from pathlib import Path

from vision.command_line import flag_of

_POSITIVE = ("epochs", "lr", "gamma", "iou_threshold", "neg_pos_ratio")
_NOT_NEGATIVE = ("workers", "seed", "overfit", "weight_decay", "clip_grad_norm", "keep_last")
_NOT_NEGATIVE += ("eval_every", "checkpoint_every_steps", "checkpoint_every_minutes", "threads")
_NOT_NEGATIVE += ("warmup_epochs", "milestones", "base_net_lr", "extra_layers_lr")
_BELOW_ONE = ("momentum", "ema")


def check_mode(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that do not go together with --resume, or only with it."""
    if args.resume:
        if args.dry_run or args.overfit:
            parser.error("--dry-run and --overfit look at a new run; leave out --resume")
        path = Path(args.resume)
        if args.checkpoint_folder and Path(args.checkpoint_folder) not in (path, path.parent):
            parser.error("--checkpoint-folder is for a new run; --resume RUN goes on in RUN")
    elif args.force_override:
        parser.error("--force-override needs --resume RUN")
    elif not args.checkpoint_folder and not args.dry_run and not args.overfit:
        parser.error("--checkpoint-folder RUN is needed (or --resume RUN)")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse values and combinations that cannot work, naming the flag, by `parser.error`."""
    if not args.datasets:
        parser.error("--datasets ROOT is needed (or --resume RUN)")
    if args.batch_size < 2:
        parser.error(
            "--batch-size must be 2 or more: the last feature map is 1x1, and BatchNorm cannot "
            "be trained on the one value a channel that a single image gives"
        )
    if args.dataset_type == "coco" and (args.train_split or args.val_split or args.strict_labels):
        parser.error(
            "--train-split, --val-split and --strict-labels are for YOLO labels; "
            "leave out --dataset-type coco"
        )
    if args.tensorboard and find_spec("tensorboard") is None:
        parser.error("--tensorboard needs a package that is not installed: pip install tensorboard")
    _check_numbers(parser, args)


def _check_numbers(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for names, is_right, what in (
        (_POSITIVE, lambda x: 0 < x < math.inf, "more than 0"),
        (_NOT_NEGATIVE, lambda x: 0 <= x < math.inf, "0 or more"),
        (_BELOW_ONE, lambda x: 0 <= x < 1, "0 or more and less than 1"),
        (("iou_threshold",), lambda x: x <= 1, "1 or less"),
        (("mb2_width_mult",), lambda x: 0.1 <= x <= 10, "between 0.1 and 10"),
        (("seed",), lambda x: x < 2**63, "less than 2**63"),
        (("overfit",), lambda x: x != 1, "2 or more, since a batch has 2 images or more"),
    ):
        for name in names:
            value = getattr(args, name)
            values = value if isinstance(value, list) else [value]
            if not all(is_right(x) for x in values if x is not None):
                parser.error(f"{flag_of(name)} must be {what}")
