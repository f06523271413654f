"""One HTTP request for a byte range of a file, and the bytes of its answer."""

import http.client
import re
import ssl
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3

from vision.download.http_answer import (
    Answer,
    DownloadError,
    Interrupted,
    read_answer,
    read_length,
)
from vision.download.part_file import RemoteFile
from vision.download.watched_session import WatchedSession

CHUNK_BYTES = 1 << 20
# Fewer bytes than this within one timeout count as a stalled connection: the socket's own timeout
# never ends a connection whose server sends one byte a second.
STALLED_BYTES = 1 << 14


@contextmanager
def request_range(
    session: WatchedSession,
    url: str,
    *,
    start: int,
    end: int | None,
    known: RemoteFile,
    num_done: int,
    expected_length: int | None = None,
) -> Iterator[tuple[requests.Response, Answer]]:
    """Request bytes [start, end) of `url`.

    Args:
        start: first byte; -1 requests the whole file, without a Range header.
        end: the byte after the last; None: to the end of the file.
        known, num_done, expected_length: as for `read_answer`.

    Raises:
        Interrupted, FileChanged, RangesRefused, DownloadError: from here and from `read_answer`.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "ssd-training-toolkit"}
    if start >= 0:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        strong = known.etag if known.etag and not known.etag.startswith("W/") else None
        if num_done and (strong or known.last_modified):
            headers["If-Range"] = strong or known.last_modified
    try:
        response = session.open("GET", url, headers=headers)
    except (requests.exceptions.InvalidSchema, ValueError) as error:
        raise DownloadError(str(error)) from error
    except requests.RequestException as error:
        if problem := _certificate_problem(error):
            raise DownloadError(problem) from error
        late = f"no whole answer within {session.timeout:g} s"
        raise Interrupted(late if session.is_late else _short(error)) from error
    with response:
        yield (
            response,
            read_answer(
                response.status_code,
                response.headers,
                start=max(start, 0),
                known=known,
                num_done=num_done,
                expected_length=expected_length,
            ),
        )


def read_body(
    session: WatchedSession, response: requests.Response, answer: Answer
) -> Iterator[bytes]:
    """Yield the bytes of the file in an answer, as they arrive.

    Raises:
        Interrupted: the connection broke or stalled, or the body is shorter than announced.
    """
    inflate = zlib.decompressobj(wbits=47) if answer.encoded else None
    received, since, mark, timeout = 0, time.monotonic(), 0, session.timeout
    while answer.count is None or received < answer.count:
        try:
            session.expect()
            # read1 returns what has arrived; read would wait for CHUNK_BYTES
            data = response.raw.read1(CHUNK_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            late = f"stalled: no data in {timeout:g} s"
            reason = late if session.is_late else _short(error)
            raise Interrupted(f"after {received} bytes: {reason}") from error
        finally:
            session.expect_nothing()
        if not data:
            break
        received += len(data)
        yield from _inflated(inflate, data) if inflate else [data]
        if time.monotonic() - since > timeout:
            if received - mark < STALLED_BYTES:
                raise Interrupted(f"stalled: {received - mark} bytes in {timeout:g} s")
            since, mark = time.monotonic(), received
    if answer.count is not None and received < answer.count:
        raise Interrupted(f"after {received} bytes: the connection ended too early")
    if inflate and not inflate.eof:
        raise Interrupted("the compressed answer ended early")


def _inflated(inflate: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """Decompress `data` in pieces of at most CHUNK_BYTES, however much it grows."""
    try:
        while data and not inflate.eof:
            yield inflate.decompress(data, CHUNK_BYTES)
            data = inflate.unconsumed_tail
    except zlib.error as error:
        raise Interrupted(f"the compressed answer is broken ({error})") from error


def _short(error: BaseException) -> str:
    """Find the cause in the nested error messages of requests and urllib3."""
    text = str(error)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no data within the time limit"
    if "IncompleteRead" in text:
        return "the connection ended too early"
    cause = re.search(r"(?:\[Errno -?\d+\] |Error\(\d+, '|RemoteDisconnected\(')([^'\")\]]+)", text)
    return cause[1] if cause else re.sub(r"\s+", " ", text)[:120] or type(error).__name__


def _certificate_problem(error: BaseException | None) -> str | None:
    """Say what is wrong with the server's certificate, which a retry does not change."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is refused: {error.verify_message}; if your network has "
                "certificates of its own, set REQUESTS_CA_BUNDLE to a file of them"
            )
        error = error.__cause__ or error.__context__
    return None


def local_path(url: str) -> Path | None:
    """Return the file that a file:// URL names; None for another URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def remote_length(url: str, *, timeout: float) -> int | None:
    """Return the length of the file in bytes, None where the server does not say."""
    if path := local_path(url):
        return path.stat().st_size if path.is_file() else None
    try:
        with (
            WatchedSession(timeout) as session,
            session.open("HEAD", url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            known = answer.status_code == 200
            return read_length(answer.headers.get("Content-Length", "")) if known else None
    except (requests.RequestException, DownloadError, ValueError):
        return None  # the download itself says what is wrong
