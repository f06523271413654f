"""One request for a byte range of a file over HTTP (or file://), and the bytes that come."""

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
# Fewer bytes than this within one timeout is a stalled connection: a server that sends a byte a
# second never lets a socket time out.
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
    """Ask for bytes [start, end) of `url`, to the end of the file for None; start -1: no Range.

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
    """The bytes of the file in an answer, as they come in.

    Raises:
        Interrupted: the connection broke or stalled, or the body is shorter than announced.
    """
    # read1 returns what has arrived; urllib3 1.26 has only read, which waits for all it asked for
    read = getattr(response.raw, "read1", None)
    amount = CHUNK_BYTES if read else STALLED_BYTES
    read = read or response.raw.read
    inflate = zlib.decompressobj(wbits=47) if answer.encoded else None
    received, since, mark = 0, time.monotonic(), 0
    while answer.count is None or received < answer.count:
        try:
            data = read(amount, decode_content=False)
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


def _inflated(inflate, data: bytes) -> Iterator[bytes]:
    """Unpack `data` a bounded piece at a time, however much it grows."""
    try:
        while data and not inflate.eof:
            yield inflate.decompress(data, CHUNK_BYTES)
            data = inflate.unconsumed_tail
    except zlib.error as error:
        raise Interrupted(f"the compressed answer is broken ({error})") from error


def _short(error: BaseException) -> str:
    """The cause inside the nested messages of requests and urllib3."""
    text = str(error)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no data within the time limit"
    if "IncompleteRead" in text:
        return "the connection ended too early"
    system = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", text)
    return system[1] if system else re.sub(r"\s+", " ", text)[:120] or type(error).__name__


def open_session(url: str) -> requests.Session:
    """A session for one thread; file:// works when `url` itself is one, never by redirect."""
    session = requests.Session()
    if urlsplit(url).scheme == "file":
        session.mount("file://", _FileAdapter())
    return session


def remote_length(url: str, *, timeout: float) -> int | None:
    """Bytes of the file as the server announces them, None when it does not."""
    try:
        with open_session(url) as session:
            headers = {"Accept-Encoding": "identity"}
            answer = session.head(url, headers=headers, timeout=timeout, allow_redirects=True)
    except (requests.RequestException, ValueError):
        return None
    text = answer.headers.get("Content-Length", "")
    return int(text) if answer.status_code == 200 and text.isdecimal() else None


class _FileAdapter(requests.adapters.BaseAdapter):
    """Answers for a local mirror as a web server would, ranges included."""

    def send(self, request: requests.PreparedRequest, **_) -> requests.Response:
        """Open the file that the URL names; 404 if there is none."""
        response = requests.Response()
        response.request, response.url = request, request.url
        path = Path(url2pathname(urlsplit(request.url).path))
        try:
            file, size = open(path, "rb"), path.stat().st_size  # noqa: SIM115
        except OSError:
            response.status_code = 404
            response.raw = urllib3.HTTPResponse(body=b"", preload_content=False)
            return response
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        start, stop, response.status_code = 0, size, 200
        if asked and int(asked[1]) < size:
            start, response.status_code = int(asked[1]), 206
            stop = min(int(asked[2]) + 1, size) if asked[2] else size
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        response.headers["Content-Length"] = str(stop - start)
        response.headers["ETag"] = f'"{path.stat().st_mtime_ns:x}-{size:x}"'
        file.seek(size if request.method == "HEAD" else start)
        response.raw = urllib3.HTTPResponse(body=file, preload_content=False)
        return response

    def close(self) -> None:
        """Nothing is kept open between answers."""
