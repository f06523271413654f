"""Fetching one large file over a bad network: ranges, several connections, retries, resume.

urllib3's Retry repeats a request until its answer begins; a body that breaks off half-way, which is
the usual failure of a 19 GB file, would start again from the first byte. So the retries are here.
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from vision.download.http_answer import (
    Answer,
    DownloadError,
    FileChanged,
    Interrupted,
    RangesRefused,
)
from vision.download.http_range import CHUNK_BYTES, local_path, read_body, request_range
from vision.download.part_file import PartFile, RemoteFile
from vision.download.pieces import Piece, Pieces
from vision.download.watched_session import WatchedSession
from vision.files.guarded import regular_only

logger = logging.getLogger(__name__)

MAX_PAUSE = 120.0  # seconds
# The first request of several connections: its answer tells the length, which they then share.
PROBE_BYTES = 1 << 18
# A try that fetched fewer new bytes does not count as progress.
PROGRESS_BYTES = 1 << 16


class Stopped(Exception):
    """The caller asked to stop; the next `fetch` continues from here."""


def fetch(
    url: str,
    path: Path,
    *,
    connections: int = 1,
    timeout: float = 60.0,
    retries: int = 20,
    first_pause: float = 1.0,
    expected_length: int | None = None,
    most_bytes: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Fetch `url` to `path`; continue what an earlier call, of any process, left unfinished.

    `path` appears only when the file is complete; until then its bytes are in `NAME.part`.

    Args:
        url: http://, https://, or file:// for a mirror on a local or network drive.
        connections: ranges to fetch at the same time, where the server allows it.
        timeout: seconds for the headers of an answer, and without data after which a connection
            counts as stalled.
        retries: failed tries in a row, without progress between them, before giving up.
        first_pause: seconds before the first retry; each next pause is twice as long, up to two
            minutes, or as long as `Retry-After` says.
        expected_length: length that the file must have, if known; else the server's is taken.
        most_bytes: of a file whose length is not known; a server of larger ones is refused.
        progress: called with the bytes on disk and the bytes of the file (None: not known yet).
        stop: when set, `Stopped` is raised soon after.

    Raises:
        DownloadError: the server refuses, or the retries are used up; names the URL.
        OSError: the disk is full or not writable, or a local file is not readable.
        Stopped: `stop` was set.
    """
    progress, stop = progress or (lambda done, length: None), stop or threading.Event()
    part = PartFile(path, url)
    try:
        if source := local_path(url):
            _copy(source, part, expected_length=expected_length, progress=progress, stop=stop)
        else:
            _Transfer(
                part=part,
                connections=connections,
                timeout=timeout,
                retries=retries,
                first_pause=first_pause,
                expected_length=expected_length,
                most_bytes=most_bytes,
                progress=progress,
                stop=stop,
            ).run()
        part.finish()
    except DownloadError as error:
        raise DownloadError(f"{url}: {error}") from error
    finally:
        part.close()


def _copy(
    source: Path,
    part: PartFile,
    *,
    expected_length: int | None,
    progress: Callable[[int, int | None], None],
    stop: threading.Event,
) -> None:
    """Copy the bytes of a local file that are missing."""
    with open(source, "rb", opener=regular_only) as file:
        status = os.fstat(file.fileno())
        remote = RemoteFile(last_modified=str(status.st_mtime_ns), length=status.st_size)
        if expected_length not in (None, remote.length):
            raise DownloadError(f"it has {remote.length} bytes, the file has {expected_length}")
        if part.num_done and not part.remote.differs_from(remote):
            part.describe(remote)
        else:
            part.restart(remote)
        for start, end in part.missing():
            file.seek(start)
            while start < end:
                if stop.is_set():
                    raise Stopped
                data = file.read(min(CHUNK_BYTES, end - start))
                if not data:
                    raise DownloadError("it became shorter while it was copied")
                part.write(start, data)
                start += len(data)
                progress(part.num_done, remote.length)


@dataclass(kw_only=True)
class _Transfer:
    """One fetch over HTTP, and the state its connections share; arguments as for `fetch`."""

    part: PartFile
    connections: int
    timeout: float
    retries: int
    first_pause: float
    expected_length: int | None
    most_bytes: int | None
    progress: Callable[[int, int | None], None]
    stop: threading.Event
    lock: threading.Lock = field(default_factory=threading.Lock)
    halt: threading.Event = field(default_factory=threading.Event)
    pieces: Pieces | None = None  # None until the length is known
    num_running: int = 0
    outcome: Exception | None = None

    def run(self) -> None:
        """Return when every byte is on disk."""
        restarts = 0
        while not self.part.is_complete():
            self._run_connections()
            if self.stop.is_set():
                raise Stopped
            if isinstance(self.outcome, FileChanged) and restarts < self.retries:
                logger.warning("%s: %s, starting again", self.part.url, self.outcome)
                self.part.restart(RemoteFile())
                restarts += 1
                self.stop.wait(self._pause(restarts))
            elif isinstance(self.outcome, RangesRefused):
                self.connections = 1
            elif isinstance(self.outcome, FileChanged | Interrupted):
                raise DownloadError(f"gave up after {self.retries} retries: {self.outcome}")
            elif self.outcome:
                raise self.outcome

    def _run_connections(self) -> None:
        """Run the connections until nothing is missing or one of them ends the transfer."""
        self.halt.clear()
        self.outcome, self.pieces, self.num_running = None, None, 1
        if self.part.num_done and self.part.remote.length is not None:
            self.pieces = Pieces(self.part, self.connections)
            self.num_running = self.connections
        threads = [
            threading.Thread(target=self._connection, daemon=True) for _ in range(self.num_running)
        ]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not self.stop.wait(0.02):
                pass
        finally:
            with self.lock:  # a thread that waits for data must not write once the file is closed
                self.halt.set()
        assert self.stop.is_set() or self.num_running == 0, "a connection died"

    def _connection(self) -> None:
        """Run one thread: fetch pieces until none is left or the transfer halts."""
        with WatchedSession(self.timeout) as session:
            self._leave(self._fetch_pieces(session))

    def _fetch_pieces(self, session: WatchedSession) -> Exception | None:
        """Fetch pieces one after the other; return what ends this connection before its time."""
        failures, plain = 0, False
        while not self.halt.is_set() and (piece := self._take()):
            try:
                self._fetch_piece(session, piece, plain)
                failures, plain = 0, False
            except (Interrupted, RangesRefused) as error:
                session.drop_connections()
                plain = isinstance(error, RangesRefused)
                if plain and self.num_running > 1:
                    return error
                failures = 1 if piece.gained >= PROGRESS_BYTES else failures + 1
                if failures > self.retries:
                    return Interrupted(str(error))
                pause = max(self._pause(failures), getattr(error, "retry_after", 0.0))
                text = "%s: %s; retry %d of %d in %.3g s"
                logger.warning(text, self.part.url, error, failures, self.retries, pause)
                self.halt.wait(pause)
            except (FileChanged, OSError) as error:
                return error
        return None

    def _leave(self, error: Exception | None) -> None:
        """End this connection; an Interrupted error counts only if it was the last connection."""
        with self.lock:
            self.num_running -= 1
            if self.part.is_complete():
                self.halt.set()
            elif error and (self.num_running == 0 or not isinstance(error, Interrupted)):
                self.outcome = self.outcome or error
                self.halt.set()

    def _pause(self, failures: int) -> float:
        return min(MAX_PAUSE, self.first_pause * 2.0 ** min(failures - 1, 30))

    def _take(self) -> Piece | None:
        with self.lock:
            if self.pieces:
                return self.pieces.take()
            if self.part.num_done and self.part.remote.length is not None:
                return None  # the length is known now: `run` starts all connections
            if self.part.num_done:  # a file of unknown length cannot be continued
                self.part.restart(RemoteFile())
            return Piece(0, PROBE_BYTES if self.connections > 1 else None)

    def _fetch_piece(self, session: WatchedSession, piece: Piece, plain: bool) -> None:
        try:
            with request_range(
                session,
                self.part.url,
                start=-1 if plain else piece.start,
                end=piece.end,
                known=self.part.remote if self.part.num_done else RemoteFile(),
                num_done=self.part.num_done,
                expected_length=self.expected_length,
            ) as (response, answer):
                self._accept(piece, answer)
                for data in read_body(session, response, answer):
                    if not self._store(piece, data):
                        return
            if self.part.remote.length is None:  # it is known once the body has ended
                self.part.describe(replace(self.part.remote, length=piece.start))
        finally:
            if self.part.remote.length is None:
                piece.gained = 0  # a file of unknown length starts again, so this was no progress
            if self.pieces:
                with self.lock:
                    self.pieces.release(piece)

    def _accept(self, piece: Piece, answer: Answer) -> None:
        with self.lock:
            if answer.is_whole and self.num_running > 1:
                raise RangesRefused("the server sends the whole file to each connection")
            self._refuse_more(answer.remote.length or 0)
            piece.start = answer.start
            if answer.is_whole:  # of the same version: what is on disk stays, and is sent again
                piece.end = answer.remote.length
            if not self.part.num_done:
                self.part.restart(answer.remote)
            elif not (self.part.remote.etag or self.part.remote.last_modified):
                self.part.describe(answer.remote)
            self.progress(self.part.num_done, self.part.remote.length)

    def _refuse_more(self, num_bytes: int) -> None:
        """Raise DownloadError, with nothing left on the disk, for a file that is too large."""
        if self.most_bytes is not None and num_bytes > self.most_bytes:
            self.part.restart(RemoteFile())
            raise DownloadError(f"more than {self.most_bytes:,} bytes, which are not expected")

    def _store(self, piece: Piece, data: bytes) -> bool:
        """Write the bytes of the piece; False when it is complete or the transfer halts."""
        with self.lock:
            if self.halt.is_set():
                return False
            if piece.end is not None:
                data = data[: piece.end - piece.start]
            self._refuse_more(piece.start + len(data))
            piece.gained += self.part.write(piece.start, data)
            piece.start += len(data)
            self.progress(self.part.num_done, self.part.remote.length)
            return piece.end is None or piece.start < piece.end
