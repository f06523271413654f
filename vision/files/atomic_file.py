"""Writing files atomically: after an interruption there is the old file or the new one."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vision.files.guarded import own_only

try:
    import fcntl
except ImportError:  # Windows: the temporary files of killed processes stay
    fcntl = None

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


def write_atomically(path: str | os.PathLike, chunks: bytes | Iterable[bytes]) -> None:
    """Write a file so that at every moment `path` is the old file or the complete new one.

    The bytes are written to a temporary file in the same folder, flushed to the disk, and the file
    is renamed. If the process is killed, the next call for the same `path` removes the temporary
    file.

    Raises:
        OSError: the disk is full or the folder is not writable; `path` is unchanged.
    """
    path = Path(path)
    remove_abandoned(path.parent, lambda name: name == path.name)
    with _new_temporary(path) as file:
        for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, file.name)
        os.replace(file.name, path)
    sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """Return a new name beside `path`: `.NAME.<8 hexadecimal digits>.tmp`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_abandoned(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove the temporary files that killed processes have left in a folder.

    One whose process is alive is locked and stays, as does a file of any other name.

    Args:
        folder: not those in it.
        is_ours: tells from the name of the finished file whether it is for the caller to clean up.
    """
    for temporary in folder.glob(".*.tmp") if fcntl else ():
        match = _TEMPORARY.fullmatch(temporary.name)
        if not match or not is_ours(match["name"]):
            continue
        with contextlib.suppress(OSError), open(temporary, "rb", opener=own_only) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()


def show_in_use(file: BinaryIO) -> None:
    """Lock a file until it is closed, so that `remove_abandoned` leaves it."""
    if fcntl:
        with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(file, fcntl.LOCK_SH)


@contextlib.contextmanager
def _new_temporary(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for `path`; remove it after an error, which then names `path`."""
    while True:
        temporary = temporary_path(path)
        try:
            with open(temporary, "xb") as file:
                show_in_use(file)
                if not temporary.exists():  # removed by another process before it was locked
                    continue
                yield file
                return
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:  # as for a full disk
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise


def sync_folder(folder: Path) -> None:
    """Flush renames and links in `folder` to the disk, where the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
