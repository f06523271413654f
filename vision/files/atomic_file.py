"""Write files so that an interruption leaves the old one or the new one, never a part."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: abandoned temporary files stay until they are deleted by hand
    fcntl = None


def write_atomically(path: str | os.PathLike, chunks: bytes | Iterable[bytes]) -> None:
    """Write a file so that at every moment it is absent, the old one, or the whole new one.

    The bytes go to a temporary name in the same folder, are flushed to the disk and renamed. The
    temporary file of a writer that was killed is removed by the next writer of the same file.

    Raises:
        OSError: the disk is full or the folder not writable; `path` is then as it was.
    """
    path = Path(path)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_SH)  # held while alive: "not abandoned"
            for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and links in `folder` survive a power cut, where the system can."""
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
            continue  # its writer lives, or it is gone


def _escape_glob(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)
