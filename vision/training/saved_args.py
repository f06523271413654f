"""The arguments that a run saves in config.json, and what --resume may change of them."""

import dataclasses
import sys
from pathlib import Path

from vision.args import (
    CHECKED,
    FLAGS,
    FREE,
    NOT_SAVED,
    TrainArguments,
    find_problem,
    image_size,
)
from vision.command_line import flag_of

SAVED = [name for name, field in FLAGS.items() if field.metadata["resume"] != NOT_SAVED]
# What a run did that is older than the flag, where today's default is another value.
_BEFORE_IT_WAS_SAVED = {"box_voting": 0.0}
MAY_CHANGE = {name for name in SAVED if FLAGS[name].metadata["resume"] in (FREE, CHECKED)}


def saved_arguments(args: TrainArguments) -> dict:
    """Return what config.json keeps, as JSON has it: lists, no tuples."""
    values = {name: getattr(args, name) for name in SAVED}
    return {name: list(x) if isinstance(x, tuple) else x for name, x in values.items()}


def read_saved_arguments(saved: dict) -> TrainArguments:
    """Turn the saved arguments of a run back into arguments; the file is not trusted.

    Raises:
        ValueError: a name or a value that train_ssd.py does not write.
    """
    values = dict(_BEFORE_IT_WAS_SAVED)
    for name, value in saved.items():
        if name not in SAVED:
            raise ValueError(f"config.json: unknown argument {name!r}; it was edited or is damaged")
        if value is not None:
            values[name] = _read_value(name, value)
    return TrainArguments(**values).resolved()


def resume_arguments(
    saved: dict, args: TrainArguments, given: set[str]
) -> tuple[TrainArguments, dict[str, list]]:
    """Combine a run's saved arguments with the ones given to --resume.

    Args:
        saved: of config.json.
        args: parsed from the command line.
        given: the names that stood there.

    Returns:
        The arguments to go on with, and {name: [saved, given]} of those that differ.

    Raises:
        ValueError: the saved arguments are not what this trainer writes, or a flag differs that
            may not, naming both values.
    """
    before = read_saved_arguments(saved)
    new = {name: getattr(args, name) for name in FLAGS if name in given or name not in SAVED}
    merged = dataclasses.replace(before, **new)
    changes = differences(saved_arguments(before), saved_arguments(merged))
    refused = sorted(changes.keys() - MAY_CHANGE)
    if "cache" in refused and "none" not in changes["cache"]:
        refused.remove("cache")  # the same pixels from memory and from disk
    if refused and not args.force_override:
        lines = "; ".join(
            f"{flag_of(name)} was {changes[name][0]} in this run and is {changes[name][1]} now"
            for name in refused
        )
        raise ValueError(
            f"{lines}. Leave out what differs, start a new run, or add --force-override"
        )
    problem = find_problem(merged)
    if problem or not (merged.datasets or merged.train_json):
        raise ValueError(problem or "config.json names no --datasets; it was edited or is damaged")
    return merged, changes


def differences(before: dict, now: dict) -> dict[str, list]:
    """Return {name: [before, now]} of the names in both whose values differ, sorted."""
    common = sorted(before.keys() & now.keys())
    return {name: [before[name], now[name]] for name in common if before[name] != now[name]}


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
    for name, (mine, other) in differences(own, theirs).items():
        if name not in MAY_CHANGE | changed:
            raise ValueError(
                f"{path}: a checkpoint of another run, with {flag_of(name)} {other} "
                f"instead of {mine}"
            )


def _read_value(name: str, value: object) -> object:
    """Check a saved value against the flag's declaration."""
    about = FLAGS[name].metadata
    if about["read"] is image_size:
        is_right = isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))
        result: object = tuple(value) if is_right else None
    elif about["nargs"]:
        is_right = isinstance(value, list) and all(_has_type(about["read"], x) for x in value)
        is_right = is_right and about["nargs"] in ("*", "+" if value else None, len(value))
        is_right = is_right and all(x in (about["choices"] or value) for x in value)
        result = tuple(map(about["read"], value)) if is_right else None
    else:
        is_right = _has_type(about["read"], value)
        is_right = is_right and value in (about["choices"] or [value])
        result = about["read"](value) if is_right else None
    if not is_right:
        raise ValueError(
            f"config.json: bad arguments ({flag_of(name)} {value!r}); it was edited or is damaged"
        )
    return result


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _has_type(read: object, value: object) -> bool:
    """Tell whether JSON's value is of the type that a flag's `read` gives."""
    if read is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and not abs(value) > sys.float_info.max  # an int may be larger
    if read is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if read is bool:
        return isinstance(value, bool)
    return isinstance(value, str) and read(value) == value
