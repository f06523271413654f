"""Writing files atomically: after an interruption there is the old file or the new one."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: the temporary files of killed processes stay
    fcntl = None


def write_atomically(path: str | os.PathLike, chunks: bytes | Iterable[bytes]) -> None:
    """Write a file so that at every moment `path` is the old file or the complete new one.

    The bytes are written to a temporary file in the same folder, flushed to the disk, and the file
    is renamed. If the process is killed, the next call for the same `path` removes the temporary
    file.

    Raises:
        OSError: the disk is full or the folder is not writable; `path` is unchanged.
    """
    path = Path(path)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_SH)  # shows other processes that it is in use
            for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # as for a full disk
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush renames and links in `folder` to the disk, where the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    for temporary in path.parent.glob(f".{_escape_glob(path.name)}.*.tmp") if fcntl else ():
        try:
            with open(temporary, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()
        except OSError:
            continue  # its process is running, or has removed it


def _escape_glob(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)
