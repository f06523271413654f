"""Writing checkpoints in a background thread, while training continues."""

import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from vision.files.atomic_file import write_atomically
from vision.runs.checkpoint import link_or_copy, serialize


def save_error(path: Path, error: OSError, num_bytes: int) -> OSError:
    """Make an error that names the file, the space it needs and the free space."""
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    return OSError(
        f"{path}: could not be written ({error.strerror or error}); "
        f"it needs {num_bytes / 1e6:.3f} MB and {free / 1e6:.3f} MB are free"
    )


@dataclass
class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time, while training continues.

    `save` first waits for the previous write to end. If a write fails, the next `poll`, `save` or
    `join` raises an OSError that names the file, the space it needs and the free space.

    Attributes:
        last_path: the newest file that is on disk.
        last_size: its size in bytes.
    """

    last_path: Path | None = None
    last_size: int = 0
    _thread: threading.Thread | None = None
    _error: Exception | None = None

    def save(
        self,
        state: dict,
        path: Path,
        *,
        links: Iterable[Path] = (),
        find_obsolete: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        """Copy the state now, and write it to `path` in the background.

        Args:
            state: the checkpoint; its tensors may change after this returns.
            path: the file.
            links: further names for the file, made once it is on disk.
            find_obsolete: called after that, returns the files to remove.
        """
        self.join()
        self._thread = threading.Thread(
            target=self._write, args=(_copy(state), path, list(links), find_obsolete)
        )
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a write is in progress."""
        return self._thread is not None and self._thread.is_alive()

    def poll(self) -> None:
        """Raise the error of a write that has ended; do not wait."""
        if not self.is_busy:
            self.join()

    def join(self) -> None:
        """Wait for the write in progress, and raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(
        self,
        state: dict,
        path: Path,
        links: list[Path],
        find_obsolete: Callable[[], Iterable[Path]],
    ) -> None:
        content = b""
        try:
            content = serialize(state)
            write_atomically(path, content)
            self.last_path, self.last_size = path, len(content)
            for link in links:
                link_or_copy(path, link)
            for old in find_obsolete():
                old.unlink(missing_ok=True)
        except OSError as error:
            self._error = save_error(path, error, len(content))
        except Exception as error:  # noqa: BLE001  raised in the main thread, by `join`
            self._error = error


def _copy(value: object) -> object:
    """Copy tensors to new memory on the CPU, through dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    # Other types, such as NumPy numbers, could not be read with weights_only=True.
    assert value is None or type(value) in (bool, int, float, str), f"{value!r} in a checkpoint"
    return value
