"""Checkpoint files: names, digest, writing in the background, finding the newest intact one."""

import hashlib
import io
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import torch

from vision.datasets.atomic_file import write_atomically

FORMAT = "ssd-checkpoint/1"
KEYS = ["format", "model", "optimizer", "scheduler", "scaler", "ema", "rng", "epoch", "step"]
KEYS += ["best", "progress", "config", "classes"]
LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"
_NAME = re.compile(r"checkpoint_epoch_(\d{4,})(?:_step_(\d{8,}))?\.pt")
_DIGEST_PREFIX = b"sha256:"
_ZIP_END = b"PK\x05\x06"  # a zip's last record; its last two bytes count the comment's length
_ZIP_END_SIZE = 22
_COMMENT_SIZE = len(_DIGEST_PREFIX) + 64


def epoch_path(run: Path, epoch: int) -> Path:
    """Name the checkpoint after `epoch` whole epochs."""
    return run / f"checkpoint_epoch_{epoch:04d}.pt"


def step_path(run: Path, epoch: int, step: int) -> Path:
    """Name a checkpoint inside epoch `epoch` (1-based), after `step` steps of the run."""
    return run / f"checkpoint_epoch_{epoch:04d}_step_{step:08d}.pt"


def list_checkpoints(run: Path) -> list[Path]:
    """Return the run's epoch and step checkpoints, newest first.

    One inside epoch 4 comes after the end of epoch 3 and before the end of epoch 4.
    """
    found = []
    for path in run.glob("checkpoint_epoch_*.pt"):
        match = _NAME.fullmatch(path.name)
        if match:
            epoch, step = int(match[1]), match[2]
            found.append(((epoch, 0 if step else 1, int(step or 0)), path))
    return [path for _, path in sorted(found, reverse=True)]


def serialize(state: dict) -> bytes:
    """Turn a checkpoint into the bytes of its file: torch's zip, the digest as its comment.

    The digest covers every byte before it, and readers of zip files pass over it, so
    `torch.load(path, weights_only=True)` works on the file as it is.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    assert content[-_ZIP_END_SIZE:].startswith(_ZIP_END) and content.endswith(b"\x00\x00")
    comment = _DIGEST_PREFIX + hashlib.sha256(content).hexdigest().encode()
    return content[:-2] + len(comment).to_bytes(2, "little") + comment


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint and check its digest and its keys. Nothing in it can run code.

    Raises:
        ValueError: one line that names the file and says what is wrong with it.
    """
    content = path.read_bytes()
    comment = content[-_COMMENT_SIZE:]
    if not content:
        raise ValueError(f"{path}: the file is empty")
    if not comment.startswith(_DIGEST_PREFIX):
        raise ValueError(f"{path}: cut short, or not a checkpoint of this toolkit (no digest)")
    signed = content[: -_COMMENT_SIZE - 2] + b"\x00\x00"
    length = content[-_COMMENT_SIZE - 2 : -_COMMENT_SIZE]
    digest = hashlib.sha256(signed).hexdigest().encode()
    if digest != comment.removeprefix(_DIGEST_PREFIX) or length != bytes([_COMMENT_SIZE, 0]):
        raise ValueError(f"{path}: the content does not match its digest; the file is damaged")
    state = load_tensors(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint in the format {FORMAT}")
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise ValueError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return state


def load_tensors(path: Path) -> object:
    """Load any .pt or .pth file with `weights_only=True`; there is no other way in this toolkit.

    Raises:
        ValueError: the file is not torch's, is damaged, or holds objects other than tensors,
            numbers, strings, lists and dicts.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  the unpickler raises whatever the bytes lead it to
        text = str(error)
        if "weights_only" in text or "Weights only" in text:
            raise ValueError(
                f"{path}: refused, it holds Python objects that could run code on loading; "
                "save it again as a plain state dict"
            ) from None
        reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise ValueError(f"{path}: cannot be read as a torch file ({reason})") from None


def find_newest(run: Path) -> tuple[Path, dict, list[str]]:
    """Read the newest intact checkpoint of a run folder.

    Returns:
        Its path, its content, and one line for each newer file that had to be passed over.

    Raises:
        ValueError: there is no checkpoint, or none that is intact.
    """
    skipped: list[str] = []
    for path in [*list_checkpoints(run), run / LAST]:
        if not path.is_file():
            continue
        try:
            return path, read_checkpoint(path), skipped
        except (ValueError, OSError) as error:
            skipped.append(str(error))
    if skipped:
        raise ValueError(f"{run}: no intact checkpoint is left: " + "; ".join(skipped))
    raise ValueError(f"{run}: no checkpoint there (looked for {epoch_path(run, 1).name} and so on)")


def link_or_copy(target: Path, name: Path) -> None:
    """Make `name` another name of `target`, atomically; a copy where links are not to be had."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(target, temporary)
    except OSError:
        write_atomically(name, target.read_bytes())
        return
    os.replace(temporary, name)


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, while training goes on.

    `save` first waits for the write before it. A write that failed is raised by the next `save` or
    by `join`, as an OSError that names the file, the bytes needed and the bytes free.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def save(
        self, state: dict, path: Path, *, links: Iterable[Path] = (), remove: Iterable[Path] = ()
    ) -> None:
        """Copy the state now, and write it to `path` soon.

        Args:
            state: the checkpoint; its tensors may change after this returns.
            path: the file.
            links: further names that the file gets, once it is on disk.
            remove: files of the run that it makes needless, removed after that.
        """
        self.join()
        self._thread = threading.Thread(
            target=self._write, args=(_copy(state), path, list(links), list(remove))
        )
        self._thread.start()

    def join(self) -> None:
        """Wait for the write in flight, and raise what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, state: dict, path: Path, links: list[Path], remove: list[Path]) -> None:
        content = b""
        try:
            content = serialize(state)
            write_atomically(path, content)
            for link in links:
                link_or_copy(path, link)
            for old in remove:
                old.unlink(missing_ok=True)
        except OSError as error:
            free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
            self._error = OSError(
                f"{path}: could not be written ({error.strerror or error}); "
                f"it needs {len(content) / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
            )


def _copy(value: object) -> object:
    """Copy tensors to new memory on the CPU, through dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    # Anything else, a NumPy number among them, would be refused by weights_only when read.
    assert value is None or type(value) in (bool, int, float, str), f"{value!r} in a checkpoint"
    return value
