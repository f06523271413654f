"""The arguments that a run saves, and what --resume may change of them."""

import argparse
from pathlib import Path

from vision.args import build_train_parser, image_size
from vision.command_line import flag_of
from vision.training.check_args import check_arguments

# What --resume lets change: it decides where and how long training runs, not what it computes.
FREE_ON_RESUME = {
    "epochs",
    "workers",
    "device",
    "tensorboard",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "keep_last",
    "on_save_error",
    "base_net",  # read once, before the first step
    "pretrained_ssd",
}
# Accepted once the classes have been compared.
CHECKED_ON_RESUME = {
    "datasets",
    "dataset_type",
    "validation_dataset",
    "train_split",
    "val_split",
}
# Say what this call is to do; no part of the saved arguments.
NOT_SAVED = {"resume", "force_override", "profile", "dry_run", "overfit", "checkpoint_folder"}


def saved_arguments(args: argparse.Namespace) -> dict:
    """Return what config.json keeps."""
    return {name: value for name, value in vars(args).items() if name not in NOT_SAVED}


def resume_arguments(
    saved: dict, args: argparse.Namespace, given: set[str]
) -> tuple[argparse.Namespace, dict[str, list]]:
    """Combine a run's saved arguments with the ones given to --resume.

    Args:
        saved: of config.json; checked like a command line, since it may come from a stranger.
        args: parsed from the command line.
        given: the names that stood there.

    Returns:
        The arguments to go on with, and {name: [saved, given]} of those that differ.

    Raises:
        ValueError: the saved arguments are not a command line of this trainer, or a flag differs
            that may not, naming both values.
    """
    parser = build_train_parser(exit_on_error=False)
    merged = _parse_saved(parser, saved)
    changes = {}
    for name in sorted(given - NOT_SAVED):
        old, new = getattr(merged, name), getattr(args, name)
        if old != new:
            changes[name] = [old, new]
            setattr(merged, name, new)
    refused = sorted(changes.keys() - FREE_ON_RESUME - CHECKED_ON_RESUME)
    if "none" not in changes.get("cache", ["none"]):
        refused.remove("cache")  # the same pixels from memory and from disk
    if refused and not args.force_override:
        differences = "; ".join(
            f"{flag_of(name)} was {changes[name][0]} in this run and is {changes[name][1]} now"
            for name in refused
        )
        raise ValueError(
            f"{differences}. Leave out what differs, start a new run, or add --force-override"
        )
    for name in NOT_SAVED:
        setattr(merged, name, getattr(args, name))
    try:
        check_arguments(parser, merged)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    return merged, changes


def check_same_run(config: dict, path: Path, checkpoint: dict) -> None:
    """Refuse a checkpoint that another run has left in the folder.

    Args:
        config: the run's.
        path: of the checkpoint.
        checkpoint: its content.

    Raises:
        ValueError: its classes or arguments are not the run's; names the first difference.
    """
    own, theirs = config["arguments"], checkpoint["config"].get("arguments")
    if not isinstance(theirs, dict):
        raise ValueError(f"{path}: the checkpoint lacks its run's arguments")
    if checkpoint["classes"] != config["classes"]:
        raise ValueError(f"{path}: a checkpoint of another run, its classes are others")
    changed = {name for entry in config["history"] for name in entry["changes"]}
    for name in sorted(own.keys() & theirs.keys() - FREE_ON_RESUME - CHECKED_ON_RESUME - changed):
        if own[name] != theirs[name]:
            raise ValueError(
                f"{path}: a checkpoint of another run, with {flag_of(name)} {theirs[name]} "
                f"instead of {own[name]}"
            )


def _parse_saved(parser: argparse.ArgumentParser, saved: dict) -> argparse.Namespace:
    try:
        return parser.parse_args(_as_argv(parser, saved))
    except (argparse.ArgumentError, argparse.ArgumentTypeError, TypeError, LookupError) as error:
        raise ValueError(
            f"config.json: bad arguments ({error}); it was edited or is damaged"
        ) from None


def _as_argv(parser: argparse.ArgumentParser, saved: dict) -> list[str]:
    """Write saved arguments as a command line, so that types and choices are checked again."""
    actions = {action.dest: action for action in parser._actions}
    argv = []
    for name, value in saved.items():
        if name not in actions or name in NOT_SAVED:
            raise ValueError(f"config.json: unknown argument {name!r}; it was edited or is damaged")
        flag = flag_of(name)
        if value is None:
            continue
        if isinstance(actions[name], argparse.BooleanOptionalAction):
            argv.append(flag if value is True else "--no-" + flag.removeprefix("--"))
        elif actions[name].type is image_size:
            argv.append(f"{flag}={value[0]}x{value[1]}")
        elif isinstance(value, list):
            if any(str(item).startswith("-") for item in value):
                raise ValueError(f"config.json: {flag} {value}: it was edited or is damaged")
            argv += [flag, *map(str, value)]
        else:
            argv.append(f"{flag}={value}")
    return argv
