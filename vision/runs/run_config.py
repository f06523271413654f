"""The form of a run's configuration, as config.json and each checkpoint hold it."""

from pathlib import Path
from typing import Annotated, Any

import msgspec


class SavedClass(msgspec.Struct):
    """A class of the run."""

    label: int
    category_id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    original_category_id: int | str | None
    name: str


class Resumption(msgspec.Struct):
    """What a resume changed: {name: [before, now]}."""

    changes: dict[str, tuple[Any, Any]]
    epoch: int | None = None
    step: int | None = None


class DataFacts(msgspec.Struct):
    """What tells the images and boxes of a split from others."""

    images: int
    boxes: int
    sha256: str


class ReportedArguments(msgspec.Struct):
    """The arguments that reports compute with; older runs lack some."""

    epochs: Annotated[int, msgspec.Meta(le=2**63 - 1)] | None = None
    iou_threshold: float = 0.0
    neg_pos_ratio: float = 0.0
    workers: int | None = None
    weight_decay: float | None = None
    image_size: tuple[int, int] | None = None


class RunConfig(msgspec.Struct):
    """What the toolkit reads of a configuration; further keys are let through."""

    arguments: dict[str, Any]  # vision/training/saved_args.py knows the flags
    classes: list[SavedClass]
    history: list[Resumption]
    resumes: list[dict[str, int | None]] | None = None
    versions: dict[str, str | None] = {}
    machine: dict[str, str | int | float | None] = {}
    data: dict[str, DataFacts | None] = {}
    job: str | None = None


class Best(msgspec.Struct):
    """The best epoch so far, and its AP."""

    AP: float | None
    epoch: int | None


def check_config(config: object, *, where: Path) -> None:
    """Check that `config` has the form of a run's configuration.

    Of its arguments only those are looked at that reports compute with.

    Raises:
        ValueError: it has not; names `where`, and the key.
    """
    problem = f"{where}: not a configuration written by train_ssd.py"
    _check(config, RunConfig, problem)
    _check_names(config["classes"], problem)
    _check(config["arguments"], ReportedArguments, f"{problem}: its arguments were edited")


def check_parts(state: dict, *, where: Path) -> None:
    """Check the parts of a checkpoint that are no tensors.

    Raises:
        ValueError: one has another form; names `where`, and the key.
    """
    check_config(state["config"], where=where)
    for name, form in _PARTS.items():
        _check(state.get(name), form, f"{where}: the checkpoint's {name!r} was edited")
    _check_names(state["classes"], f"{where}: the checkpoint's 'classes' was edited")
    thresholds = state.get("thresholds")
    if thresholds is not None and len(thresholds) != len(state["classes"]):
        raise ValueError(f"{where}: the checkpoint's 'thresholds' are not those of its classes")


_NUMBERS = dict[str, int | float]
_PARTS = {
    "classes": list[SavedClass],
    "best": Best,
    "progress": _NUMBERS,
    "thresholds": list[_NUMBERS] | None,  # older checkpoints have none
}


def _check_names(classes: list[dict], problem: str) -> None:
    """Refuse names with a lone surrogate, which no text file can hold."""
    try:
        "".join(item["name"] for item in classes).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{problem} (the name of a class is no text)") from None


def _check(content: object, form: Any, problem: str) -> None:
    try:
        msgspec.convert(content, form)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{problem} ({error})") from None
