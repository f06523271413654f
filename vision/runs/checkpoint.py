"""Checkpoint files: names, digest, safe loading, finding the newest intact one."""

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from vision.files.atomic_file import show_in_use, sync_folder, temporary_path, write_atomically
from vision.files.guarded import read_regular, regular_only
from vision.files.stand_ins import refuse_stand_in
from vision.runs.run_config import check_parts
from vision.runs.tensor_files import MOST_BYTES, find_tensors, load_tensors

FORMAT = "ssd-checkpoint/1"
KEYS = {
    "format": str,
    **dict.fromkeys(["model", "optimizer", "scheduler", "scaler", "rng"], dict),
    "ema": (dict, type(None)),
    **dict.fromkeys(["epoch", "step"], int),
    **dict.fromkeys(["best", "progress", "config"], dict),
    "classes": list,
}
_WITH_TENSORS = {"model", "optimizer", "scheduler", "scaler", "ema", "rng"}
LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"
_NAME = re.compile(r"checkpoint_epoch_(\d{4,})(?:_step_(\d{8,}))?\.pt")
_DIGEST_PREFIX = b"sha256:"
_ZIP_END = b"PK\x05\x06"  # starts a zip's last record, which ends with the comment's length
_ZIP_END_SIZE = 22
_COMMENT_SIZE = len(_DIGEST_PREFIX) + 64


def epoch_path(run: Path, epoch: int) -> Path:
    """Return the path of the checkpoint after `epoch` whole epochs."""
    return run / f"checkpoint_epoch_{epoch:04d}.pt"


def step_path(run: Path, epoch: int, step: int) -> Path:
    """Return the path of a checkpoint in epoch `epoch` (from 1), after `step` steps of the run."""
    return run / f"checkpoint_epoch_{epoch:04d}_step_{step:08d}.pt"


def list_checkpoints(run: Path) -> list[Path]:
    """Return the run's epoch and step checkpoints, newest first.

    One inside epoch 4 comes after the end of epoch 3 and before the end of epoch 4.
    """
    found = [(position_of(path), path) for path in run.glob("checkpoint_epoch_*.pt")]
    return [path for position, path in sorted(found, reverse=True) if position]


def has_checkpoints(run: Path) -> bool:
    """Whether the folder has any checkpoint, also if only checkpoint_last.pt or _best.pt."""
    return any(
        path.name in (LAST, BEST) or _NAME.fullmatch(path.name)
        for path in run.glob("checkpoint_*.pt")
    )


def position_of(path: Path) -> tuple[int, ...]:
    """Return the position in the run that a checkpoint's name tells; a later one is greater.

    It is (epoch from 1, 1 if the epoch is done else 0, step); empty for a name of another kind.
    """
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), 0 if match[2] else 1, int(match[2] or 0)) if match else ()


def serialize(state: dict) -> bytes:
    """Return the bytes of a checkpoint's file: torch's zip with a SHA-256 digest as its comment.

    The digest covers every byte before it. Programs that read zip files ignore the comment, so
    `torch.load(path, weights_only=True)` works on the file.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    assert content[-_ZIP_END_SIZE:].startswith(_ZIP_END) and content.endswith(b"\x00\x00")
    comment = _DIGEST_PREFIX + hashlib.sha256(content).hexdigest().encode()
    return content[:-2] + len(comment).to_bytes(2, "little") + comment


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint and check its digest and keys; no code from the file is run.

    Raises:
        ValueError: one line that names the file and says what is wrong.
    """
    content = read_regular(path, most_bytes=MOST_BYTES)
    comment = content[-_COMMENT_SIZE:]
    if not content:
        raise ValueError(f"{path}: the file is empty")
    refuse_stand_in(content[:512], path)
    if not comment.startswith(_DIGEST_PREFIX):
        raise ValueError(f"{path}: cut short, or not a checkpoint of this toolkit (no digest)")
    signed = content[: -_COMMENT_SIZE - 2] + b"\x00\x00"
    length = content[-_COMMENT_SIZE - 2 : -_COMMENT_SIZE]
    digest = hashlib.sha256(signed).hexdigest().encode()
    if digest != comment.removeprefix(_DIGEST_PREFIX) or length != bytes([_COMMENT_SIZE, 0]):
        raise ValueError(f"{path}: the content does not match its digest; the file is damaged")
    state = load_tensors(path, content)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint in the format {FORMAT}")
    missing = [k for k, kind in KEYS.items() if k not in state or not isinstance(state[k], kind)]
    if missing or state["epoch"] < 0 or state["step"] < 0:
        raise ValueError(f"{path}: the checkpoint lacks {', '.join(missing) or 'a valid place'}")
    for name in state.keys() - _WITH_TENSORS:
        if next(find_tensors(state[name]), None):
            raise ValueError(f"{path}: the checkpoint's {name!r} was edited (a tensor is in it)")
    check_parts(state, where=path)
    return state


def find_newest(
    run: Path, *, check: Callable[[Path, dict], None] | None = None
) -> tuple[Path, dict, list[str]]:
    """Read the newest intact checkpoint of a run folder.

    Args:
        run: the folder.
        check: called with a path and its content; raises ValueError to refuse the checkpoint.

    Returns:
        Its path, its content, and one line for each newer file that could not be used.

    Raises:
        ValueError: there is no checkpoint, or no intact one.
    """
    listed, skipped = list_checkpoints(run), []
    found: tuple[Path, dict] | None = None
    for path in [*listed, run / LAST, run / BEST]:
        # After one is found only checkpoint_last.pt may be newer, if its other name was deleted.
        if not path.is_file() or (found and path.name != LAST):
            continue
        if path not in listed and any(path.samefile(other) for other in listed):
            continue
        try:
            checkpoint = read_checkpoint(path)
            if check:
                check(path, checkpoint)
        except (ValueError, OSError) as error:
            skipped.append(str(error))
            continue
        if found is None or _place(checkpoint) > _place(found[1]):
            found = path, checkpoint
    if found:
        return *found, skipped
    if skipped:
        raise ValueError(f"{run}: no intact checkpoint is left: " + "; ".join(skipped))
    raise ValueError(f"{run}: no checkpoint there (looked for {epoch_path(run, 1).name} and so on)")


def _place(checkpoint: dict) -> tuple[int, int]:
    return checkpoint["epoch"], checkpoint["step"]


def link_or_copy(target: Path, name: Path) -> None:
    """Make `name` a hard link to `target`, atomically; a copy where links are not possible."""
    if name.exists() and os.path.samefile(target, name):
        return  # os.replace would do nothing, and leave the temporary name
    temporary = temporary_path(name)
    with open(target, "rb", opener=regular_only) as file:
        show_in_use(file)  # the link is another name of the same file
        try:
            os.link(target, temporary)
        except OSError:
            write_atomically(name, file.read())
            return
        os.replace(temporary, name)
    sync_folder(name.parent)
