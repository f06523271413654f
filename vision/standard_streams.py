"""Standard output and error that outlast their readers, and escape control characters.

`train_ssd.py ... | head`, a closed terminal or `2>&-` are no reason to end hours of work. Names in
untrusted files may hold commands for the terminal.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from vision.files.printable import printable_lines

_GONE = {errno.EPIPE, errno.EIO, errno.EBADF}  # EIO: the terminal has been closed


class ReaderGone(BrokenPipeError):
    """Nobody reads the standard output any more; work that is done for its reader alone can end."""


class LastingStream:
    """A standard stream; once its reader has gone, what is written is lost and the work goes on.

    Args:
        stream: standard output or error.
        is_log: no error of writing to it matters.
    """

    def __init__(self, stream: TextIO, *, is_log: bool):
        self._stream, self._is_log, self._is_lost = stream, is_log, False

    def __getattr__(self, name: str) -> object:
        """Take everything else, such as `isatty`, from the stream itself."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, with control characters escaped, and what the stream's encoding lacks.

        Raises:
            OSError: the disk is full, and the like; of standard output only.
        """
        if not self._is_lost:
            try:
                encoding = getattr(self._stream, "encoding", None) or "utf-8"
                shown = printable_lines(text).encode(encoding, "backslashreplace")
                self._stream.write(shown.decode(encoding))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush, as those do who write for a reader at the other end.

        Raises:
            ReaderGone: there is none; of standard output only.
            OSError: the disk is full, and the like; of standard output only.
        """
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)
        if self._is_lost and not self._is_log:
            raise ReaderGone(errno.EPIPE, os.strerror(errno.EPIPE))

    def _lose(self, error: OSError) -> None:
        self._is_lost = True
        with open(os.devnull, "wb") as nowhere:  # for what is buffered, at the end of Python
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if not self._is_log and error.errno not in _GONE:
            raise error


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Let sys.stdout and sys.stderr outlast their readers inside the `with` block."""
    streams = sys.stdout, sys.stderr
    # Where 0, 1 or 2 is closed, a checkpoint would get that number, and C code print in it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = LastingStream(sys.stdout or _nowhere(), is_log=False)
    sys.stderr = LastingStream(sys.stderr or _nowhere(), is_log=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def _nowhere() -> TextIO:
    return open(os.devnull, "w")
