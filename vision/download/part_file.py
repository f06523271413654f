"""A partly fetched file (NAME.part) and the record (NAME.part.json) to continue it from."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vision.files.atomic_file import sync_folder, write_atomically
from vision.files.guarded import own_only
from vision.files.structured_text import read_json

logger = logging.getLogger(__name__)

# A kill -9 loses at most the bytes since the last record.
SECONDS_BETWEEN_RECORDS = 5.0
RECORD_ROOM = 1 << 14  # bytes to free on a full disk, so that the record can be written


@dataclass(frozen=True)
class RemoteFile:
    """Identifies one version of a file on a server.

    Attributes:
        etag: the entity tag as the server wrote it, with quotes and any `W/`.
        last_modified: the date as the server wrote it.
        length: bytes of the whole file.
    """

    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None

    def differs_from(self, other: "RemoteFile") -> bool | None:
        """Whether the two are different versions; None if it cannot be told."""
        if None not in (self.length, other.length) and self.length != other.length:
            return True
        if self.etag and other.etag:
            return self.etag != other.etag
        if self.last_modified and other.last_modified:
            return self.last_modified != other.last_modified
        return None


class PartFile:
    """`NAME.part`, in the folder of the finished file, and `NAME.part.json` beside it.

    The record holds the URL, the version of the file, and the byte ranges that are on disk. A range
    is recorded only after an fsync of its bytes, and the record is replaced atomically, so it is
    true after a kill -9 or a power cut too. Methods may be called from several threads.

    Attributes:
        remote: the version of the file that the bytes belong to.
    """

    def __init__(self, path: Path, url: str) -> None:
        """Open what an earlier process left for `path`, or start an empty file.

        Bytes from another URL are kept (the user may change to a faster mirror half-way), but the
        other server's ETag and date are not: the length must agree, and the zip's CRCs decide.
        """
        self.path = path
        self.part_path = path.with_name(path.name + ".part")
        self.record_path = path.with_name(path.name + ".part.json")
        self.url = url
        self.remote = RemoteFile()
        self._done: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._recorded_at = time.monotonic()
        self._load()
        if not self._done:
            self._record()  # before the first byte: a .part without a record is of another program
        self._file = open(  # noqa: SIM115
            self.part_path, "r+b" if self._done else "w+b", buffering=0, opener=own_only
        )

    @property
    def num_done(self) -> int:
        """Bytes of the file that are on disk."""
        return sum(end - start for start, end in self._done)

    def missing(self) -> list[tuple[int, int]]:
        """Ranges [start, end) still to fetch; the length must be known."""
        assert self.remote.length is not None
        with self._lock:
            edges = [0, *(edge for span in self._done for edge in span), self.remote.length]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(start, end) for start, end in pairs if start < end]

    def is_complete(self) -> bool:
        """Whether the length is known and every byte is on disk."""
        return self.remote.length is not None and not self.missing()

    def restart(self, remote: RemoteFile) -> None:
        """Drop all bytes, and start again with the version `remote`."""
        with self._lock:
            self.remote, self._done = remote, []
            self._record()
            self._file.truncate(0)

    def describe(self, remote: RemoteFile) -> None:
        """Set what is known of the same version, for example its length once the end is reached."""
        with self._lock:
            self.remote = remote
            self._record()

    def write(self, start: int, data: bytes) -> int:
        """Write `data` at byte `start`; return how many of its bytes were not on disk before."""
        with self._lock:
            self._file.seek(start)
            view = memoryview(data)
            while view:  # an unbuffered write may write only a part, on a nearly full disk
                view = view[self._file.write(view) :]
            before = self.num_done
            self._done = _merge([*self._done, (start, start + len(data))])
            if time.monotonic() - self._recorded_at > SECONDS_BETWEEN_RECORDS:
                self._record()
            return self.num_done - before

    def close(self) -> None:
        """Flush the bytes and the record to the disk, and close the file."""
        with self._lock:
            if self._file.closed:
                return
            try:
                self._record()
            except OSError:
                with suppress(OSError):  # then the record before it stays
                    self._make_room()
                    self._record()
            self._file.close()

    def _make_room(self) -> None:
        """Cut off the file's last bytes, so that a full disk has room for the record."""
        keep = max(0, self.part_path.stat().st_size - RECORD_ROOM)
        self._done = _merge((start, min(end, keep)) for start, end in self._done if start < keep)
        self._file.truncate(keep)

    def finish(self) -> None:
        """Rename the complete file to its final name.

        Raises:
            OSError: bytes are missing, or they cannot be flushed.
        """
        with self._lock:
            os.fsync(self._file.fileno())
            self._file.close()
        size = self.part_path.stat().st_size
        if not self.is_complete() or size != self.remote.length:
            raise OSError(f"{self.part_path}: {size} bytes, {self.remote.length} expected")
        os.replace(self.part_path, self.path)
        sync_folder(self.path.parent)
        self.record_path.unlink()

    def _load(self) -> None:
        if not self.record_path.exists() and not self.part_path.exists():
            return
        try:
            record = read_json(self.record_path)
            remote = RemoteFile(**record["remote"])
            done = _merge((int(start), int(end)) for start, end in record["done"])
            size = self.part_path.stat().st_size if done else 0
            limit = size if remote.length is None else min(size, remote.length)
            if done and (done[0][0] < 0 or done[-1][1] > limit):
                raise ValueError("it lists bytes that are not in the file")
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: no usable record (%s), starting again", self.part_path, error)
            return
        if record.get("url") != self.url:
            remote = RemoteFile(length=remote.length)
        self.remote, self._done = remote, done

    def _record(self) -> None:
        if self._done:
            os.fsync(self._file.fileno())
        record = {"url": self.url, "remote": asdict(self.remote), "done": self._done}
        write_atomically(self.record_path, json.dumps(record).encode())
        self._recorded_at = time.monotonic()


def _merge(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort ranges and join those that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged
