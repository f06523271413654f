"""One HTTP request for a byte range of a file, and the bytes of its answer."""

import http.client
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3

from vision.download.http_answer import Answer, DownloadError, Interrupted, read_answer
from vision.download.part_file import RemoteFile

CHUNK_BYTES = 1 << 20
# Fewer bytes than this within one timeout count as a stalled connection: the socket's own timeout
# never ends a connection whose server sends one byte a second.
STALLED_BYTES = 1 << 14


@contextmanager
def request_range(
    session: requests.Session,
    url: str,
    *,
    start: int,
    end: int | None,
    known: RemoteFile,
    num_done: int,
    timeout: float,
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
        response = session.get(url, headers=headers, stream=True, timeout=timeout)
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema, ValueError) as error:
        raise DownloadError(str(error)) from error
    except requests.RequestException as error:
        raise Interrupted(_short(error)) from error
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


def read_body(response: requests.Response, answer: Answer, *, timeout: float) -> Iterator[bytes]:
    """Yield the bytes of the file in an answer, as they arrive.

    Raises:
        Interrupted: the connection broke or stalled, or the body is shorter than announced.
    """
    inflate = zlib.decompressobj(wbits=47) if answer.encoded else None
    received, since, mark = 0, time.monotonic(), 0
    while answer.count is None or received < answer.count:
        try:
            # read1 returns what has arrived; read would wait for CHUNK_BYTES
            data = response.raw.read1(CHUNK_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise Interrupted(f"after {received} bytes: {_short(error)}") from error
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


def local_path(url: str) -> Path | None:
    """Return the file that a file:// URL names; None for another URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def remote_length(url: str, *, timeout: float) -> int | None:
    """Return the length of the file in bytes, None where the server does not say."""
    if path := local_path(url):
        return path.stat().st_size if path.is_file() else None
    headers = {"Accept-Encoding": "identity"}
    try:
        answer = requests.head(url, headers=headers, timeout=timeout, allow_redirects=True)
    except (requests.RequestException, ValueError):
        return None
    text = answer.headers.get("Content-Length", "")
    return int(text) if answer.status_code == 200 and text.isdecimal() else None
