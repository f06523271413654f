"""COCO annotation files as text: check the JSON syntax, read them in chunks."""

import codecs
import mmap
import os
import re
from collections.abc import Iterator

import msgspec
import numpy as np

from vision.files.guarded import regular_only
from vision.files.stand_ins import refuse_stand_in
from vision.files.text import GZIP_MAGIC, decode_text

CHUNK_BYTES = 1 << 20
SEPARATOR = re.compile(rb"[ \t\r\n,]*")  # what stands before an entry of a list
_PIECE_BYTES = 1 << 22


class CategoryRecord(msgspec.Struct, gc=False):
    """One entry of `categories`, without the keys that are not used."""

    id: int | str
    name: str | int | float | None = None
    original_id: int | None = None


class ImageRecord(msgspec.Struct, gc=False):
    """One entry of `images`; sizes in pixels."""

    id: int | float | str
    file_name: str
    height: int | float | None = None
    width: int | float | None = None


class AnnotationRecord(msgspec.Struct, gc=False):
    """One entry of `annotations`; the segmentation is skipped, which saves its many objects."""

    id: int | float | str | None = None
    image_id: int | float | str | None = None
    category_id: int | float | str | None = None
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: int | bool | None = None


class CocoJson:
    """An annotation file mapped into memory; its syntax is checked and its sections are located.

    Attributes:
        spans: for each top-level key, the first byte of its value and the byte after the value.
        source: the bytes of the file, as UTF-8.
        parsed: the same, or a copy of the same length with NaN and Infinity replaced by numbers.

    Raises:
        ValueError: not JSON (names the byte offset), or not a JSON object.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = str(path)
        with open(path, "rb", opener=regular_only) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ValueError(f"{self.path}: malformed JSON at byte 0: the file is empty")
            self.source: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        refuse_stand_in(self.source[:512], path)
        if self.source[:2] == GZIP_MAGIC or not _is_utf8(self.source):
            self.source = decode_text(self.source[:], path).encode()
        self.parsed: mmap.mmap | bytes = self.source
        self.spans = self._locate_sections()
        self.forget_pages(0, len(self.source))

    def _locate_sections(self) -> dict[str, tuple[int, int]]:
        decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
        try:
            sections = decoder.decode(self.parsed)
        except msgspec.ValidationError as error:
            is_list = self.parsed[:64].lstrip().startswith(b"[")
            raise ValueError(
                f"{self.path}: not a COCO file, whose top is an object with images, annotations "
                "and categories" + (", but a list, as detections are" if is_list else "")
            ) from error
        except RecursionError:
            raise ValueError(f"{self.path}: nested too deeply to be read") from None
        except msgspec.DecodeError as error:
            offset = re.search(r"byte (\d+)", str(error))
            byte = int(offset[1]) if offset else len(self.parsed)
            if self.parsed is self.source and self.source[byte : byte + 3] in (b"NaN", b"Inf"):
                self.parsed = _without_not_finite(self.source)
                return self._locate_sections()
            reason = str(error).removeprefix("JSON is malformed: ").split(" (byte")[0]
            raise ValueError(f"{self.path}: malformed JSON at byte {byte}: {reason}") from error
        return raw_spans(self.parsed, sections)

    def chunks(self, key: str, record: type) -> Iterator[tuple[int, int, list]]:
        """Yield the list under `key` in chunks of about CHUNK_BYTES; nothing if absent or null.

        Yields:
            (start, stop, records): bytes `start` to `stop` of the file contain these records and
            the separator before the first. All chunks together are the list without its brackets.

        Raises:
            ValueError: it is not a list, or an entry has a wrong type; names the entry.
        """
        start, stop = self.spans.get(key, (0, 0))
        if stop - start <= 4 and self.parsed[start:stop] in (b"", b"null"):
            return
        if self.parsed[start : start + 1] != b"[":
            raise ValueError(f"{self.path}: {key!r} must be a list")
        decoder = msgspec.json.Decoder(list[record])
        position, end, count = start + 1, stop - 1, 0
        while position < end:
            try:
                cut, records = self._next_chunk(decoder, position, end)
            except msgspec.DecodeError as error:
                raise ValueError(f"{self.path}: {_entry_message(key, count, error)}") from error
            yield position, cut, records
            self.forget_pages(position, cut)
            position, count = cut, count + len(records)

    def _next_chunk(
        self, decoder: msgspec.json.Decoder, position: int, end: int
    ) -> tuple[int, list]:
        """Decode up to a `},{`; return the byte after the last record, and the records.

        The `},{` may be inside a string or a nested list. Then the text before it is not valid JSON
        (something is not closed), and the next one is tried.
        """
        size = CHUNK_BYTES
        first = SEPARATOR.match(self.parsed, position, end).end()
        while True:
            boundary = _BETWEEN_OBJECTS.search(self.parsed, min(position + size, end), end)
            cut = boundary.start() + 1 if boundary else end
            with memoryview(self.parsed) as view:
                text = b"".join((b"[", view[first:cut], b"]"))
            try:
                return cut, decoder.decode(text)
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:
                if cut == end:
                    raise
                size = 2 * (cut - position)

    def forget_pages(self, start: int, stop: int) -> None:
        """Free the memory of pages that were read; the next access reads them from the file."""
        if isinstance(self.source, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            first = start - start % mmap.PAGESIZE
            self.source.madvise(mmap.MADV_DONTNEED, first, stop - first)


def _is_utf8(source: mmap.mmap) -> bool:
    """Whether all of it is UTF-8 without a byte order mark; nearly always it is ASCII."""
    if source[:3] == codecs.BOM_UTF8 or b"\0" in source[:4]:
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_pending = False  # a character may lie on both sides of a cut
    try:
        for start in range(0, len(source), _PIECE_BYTES):
            if is_pending or not _is_ascii(source, start):
                decoder.decode(source[start : start + _PIECE_BYTES])
                is_pending = bool(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_ascii(source: mmap.mmap, start: int) -> bool:
    """Whether a piece is ASCII, without copying it."""
    count = min(_PIECE_BYTES, len(source) - start)
    words = np.frombuffer(source, np.uint64, count // 8, start)
    rest = source[start + count - count % 8 : start + count]
    return not int(np.bitwise_or.reduce(words)) & 0x8080808080808080 and rest.isascii()


_BETWEEN_OBJECTS = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")


def _entry_message(key: str, count: int, error: msgspec.DecodeError) -> str:
    """Turn msgspec's "... - at `$[12].id`" into a message with the index in the whole list."""
    reason, _, where = str(error).partition(" - at `$")
    index = re.match(r"\[(\d+)\](.*?)`?$", where)
    reason += "; write it without quotes" if "float" in reason and "`str`" in reason else ""
    if not index:
        return f"{key}[{count}...]: {reason}"
    return f"{key}[{count + int(index[1])}]{index[2]}: {reason}"


def _without_not_finite(source: mmap.mmap) -> bytes:
    """NaN and Infinity, which Python writes though JSON has no such words, as +-9e9.

    That is beyond NOT_FINITE, and as many bytes, so offsets stay true.
    """
    words = {b"NaN": b"9e9", b"Infinity": b"9e9     ", b"-Infinity": b"-9e9     "}
    pattern = re.compile(rb'"(?:[^"\\]|\\.)*"|NaN|-?Infinity', re.DOTALL)
    return pattern.sub(lambda match: words.get(match[0], match[0]), source)


def raw_spans(text: bytes | mmap.mmap, values: dict[str, msgspec.Raw]) -> dict[str, tuple]:
    """Return where in `text` the values are that msgspec decoded from it: {key: (start, stop)}."""
    base = np.frombuffer(text, np.uint8).ctypes.data
    spans = {}
    for key, raw in values.items():
        value = np.frombuffer(raw, np.uint8)
        start = value.ctypes.data - base
        spans[key] = (start, start + len(value))
    return spans
