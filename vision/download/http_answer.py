"""Interpreting the status and headers of any answer to a request for a part of a file."""

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vision.download.part_file import RemoteFile

MAX_RETRY_AFTER = 3600.0  # seconds
MAX_DIGITS = 15  # of a length in bytes
# Statuses after which the same request may work later.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524})


class DownloadError(OSError):
    """The file cannot be fetched, and trying again now would not help."""


class Interrupted(Exception):
    """This try failed, the next one may work. `retry_after`: seconds the server asks to wait."""

    def __init__(self, reason: str, *, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class FileChanged(Exception):
    """The server's file is another version than the bytes on disk."""


class RangesRefused(Exception):
    """The server does not send parts of this file, or not in a usable form."""


@dataclass(frozen=True)
class Answer:
    """A usable answer.

    Attributes:
        start: position of the body's first byte in the file.
        count: bytes of the body as sent, None when the server does not say.
        encoded: whether the body is compressed and has to be decompressed.
        is_whole: whether the body is the whole file, even if only a part was requested.
        remote: the version of the file that the body belongs to.
    """

    start: int
    count: int | None
    encoded: bool
    is_whole: bool
    remote: RemoteFile


def read_answer(
    status: int,
    headers: Mapping[str, str],
    *,
    start: int,
    known: RemoteFile,
    num_done: int,
    expected_length: int | None = None,
) -> Answer:
    """Interpret the answer to `Range: bytes=start-...`, or, with `start` 0, to no Range.

    Args:
        known: the version of the file that the `num_done` bytes on disk belong to.
        expected_length: the length the file must have, if it is known from another source.

    Raises:
        Interrupted, FileChanged, RangesRefused, DownloadError: as their docstrings say.
    """
    if status == 416:
        raise _error_for_416(headers, known, num_done, expected_length)
    if status in TRANSIENT:
        raise Interrupted(f"HTTP {status}", retry_after=_retry_after(headers))
    if status not in (200, 206):
        raise DownloadError(f"HTTP {status}, so this is not the file's address or access is closed")
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise Interrupted("a web page came instead of the file (a login page of the network?)")
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise DownloadError(f"the server insists on Content-Encoding: {encoding}")
    encoded = encoding not in ("", "identity")
    answer = _whole(headers, encoded) if status == 200 else _part(headers, start, encoded)
    length = answer.remote.length
    if None not in (length, expected_length) and length != expected_length:
        raise Interrupted(
            f"the server offers {length} bytes, the file has {expected_length}; "
            "if it was replaced there, --base-url goes by the server's own length"
        )
    differs = known.differs_from(answer.remote) if num_done else False
    if encoded and differs is not False and known.length is not None:
        # A compressed copy may have another ETag; that is no reason to delete the bytes on disk.
        raise Interrupted("the answer is compressed, though asked not to be")
    if differs or (differs is None and answer.is_whole):
        raise FileChanged("the file changed on the server")
    return replace(
        answer, remote=replace(answer.remote, length=length or known.length or expected_length)
    )


def read_length(text: str) -> int | None:
    """Read a number of bytes; None where there is none.

    Raises:
        DownloadError: it is a petabyte or more.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    if len(text) > MAX_DIGITS:
        raise DownloadError(f"the server says that it has {text[:20]}... bytes")
    return int(text)


def _error_for_416(
    headers: Mapping[str, str], known: RemoteFile, num_done: int, expected_length: int | None
) -> Exception:
    total = re.fullmatch(r"bytes \*/([0-9]+)", headers.get("Content-Range", "").strip())
    if total and known.length not in (None, read_length(total[1]), expected_length):
        return FileChanged("the file changed on the server")
    if num_done:
        return Interrupted("HTTP 416 for a range inside the file")
    return RangesRefused("HTTP 416 for a range inside the file")


def _whole(headers: Mapping[str, str], encoded: bool) -> Answer:
    count = read_length(headers.get("Content-Length", ""))
    remote = _remote(headers, None if encoded else count)
    return Answer(start=0, count=count, encoded=encoded, is_whole=True, remote=remote)


def _part(headers: Mapping[str, str], start: int, encoded: bool) -> Answer:
    if encoded:
        raise RangesRefused("the part is of a compressed copy")
    told = headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)", told)
    first, last, length = map(read_length, found.groups()) if found else (None, -1, None)
    if first != start or last < start:
        raise Interrupted(f"the server sent another range ({told[:100]})")
    count = last - start + 1
    if headers.get("Content-Length", str(count)) != str(count):
        raise Interrupted("the answer's length and range disagree")
    remote = _remote(headers, length)
    return Answer(start=start, count=count, encoded=False, is_whole=False, remote=remote)


def _remote(headers: Mapping[str, str], length: int | None) -> RemoteFile:
    return RemoteFile(headers.get("ETag"), headers.get("Last-Modified"), length)


def _retry_after(headers: Mapping[str, str]) -> float:
    # Not urllib3's Retry: it turns a longer wait into six hours, and then the message is wrong.
    text = headers.get("Retry-After", "0").strip()
    if text.isdecimal():
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return 0.0
    if seconds > MAX_RETRY_AFTER:
        raise DownloadError(f"the server asks to come back in {seconds / 3600:.1f} hours")
    return max(0.0, seconds)
