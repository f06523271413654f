"""Reading the text files of a data set, whatever encoding the tool that wrote them used."""

import codecs
import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vision.files.guarded import MOST_BYTES, read_regular, regular_only
from vision.files.stand_ins import refuse_stand_in

logger = logging.getLogger(__name__)

GZIP_MAGIC = b"\x1f\x8b"
MOST_UNPACKED = 2 << 30  # bytes of a .gz; COCO's largest annotation file has 0.5 GB
SHORT_TEXT = 1 << 20  # bytes of a list of classes or a data.yaml
SMALL_TEXT = 1 << 23  # bytes of one image's boxes or polygons
_MOST_CHARACTERS = 1 << 17  # of a line; Python's csv takes no longer field
_HEAD = 512  # bytes that tell what a file is
# Byte order marks; UTF-32 first, as its little-endian mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def read_text(path: str | Path, *, most_bytes: int = MOST_BYTES) -> str:
    """Read a text file: UTF-8, UTF-16, UTF-32 or Windows-1252, gzip-compressed or not.

    Raises:
        OSError: it cannot be read, or has more than `most_bytes`.
        ValueError: it is no text, or unpacks to more; the file is named.
    """
    return decode_text(read_regular(path, most_bytes=most_bytes), path, most_bytes=most_bytes)


@contextmanager
def open_lines(path: str | Path) -> Iterator[Iterator[str]]:
    """Open a text file that may be too large to be read whole: UTF-8 or UTF-16, gzip or not.

    Its lines end as they do in the file. One that would fill the memory comes in parts.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or not text, as the lines are read; the file is named.
    """
    with open(path, "rb", opener=regular_only) as file:
        head = file.peek(4)[:4]
        stream = gzip.GzipFile(fileobj=file) if head.startswith(GZIP_MAGIC) else file
        encoding = "utf-8"
        try:
            start = stream.peek(_HEAD)[:_HEAD]
            refuse_stand_in(start, path)
            mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
            stream.read(len(mark))
            encoding = _MARKS[mark] if mark else _encoding_without_mark(start[:4])
            text = io.TextIOWrapper(stream, encoding=encoding, newline="")
            yield iter(partial(text.readline, _MOST_CHARACTERS), "")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not {encoding.upper()} text ({error.reason})") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: a damaged gzip file ({error})") from None


def decode_text(data: bytes, path: str | Path, *, most_bytes: int = MOST_UNPACKED) -> str:
    """Turn the bytes of a text file into text, as `read_text`; `path` is for messages."""
    data = unpacked(data, path, most_bytes=most_bytes)
    refuse_stand_in(data[:_HEAD], path)
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = _MARKS[mark] if mark else _encoding_without_mark(data)
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or mark:
            raise ValueError(f"{path}: not {encoding.upper()} text ({error.reason})") from None
        text = None
    if "\0" in text if text is not None else b"\0" in data:
        raise ValueError(f"{path}: holds binary data, no text; is it the right file?")
    if text is not None:
        return text
    logger.warning("%s: not UTF-8, read as Windows-1252; save it as UTF-8 to be sure", path)
    return data.decode("cp1252", errors="replace")


def unpacked(data: bytes, path: str | Path, *, most_bytes: int = MOST_UNPACKED) -> bytes:
    """The content of a gzip file, of one part or several; other bytes as they are.

    Raises:
        ValueError: it is damaged, or has more than `most_bytes`.
    """
    parts, size = [], 0
    if not data.startswith(GZIP_MAGIC):
        return data
    while data:
        decompressor = zlib.decompressobj(wbits=31)
        try:
            part = decompressor.decompress(data, most_bytes - size + 1)
        except zlib.error as error:
            raise ValueError(f"{path}: a damaged gzip file ({error})") from None
        size += len(part)
        if size > most_bytes:
            raise ValueError(f"{path}: unpacks to more than {most_bytes:,} bytes")
        if not decompressor.eof:
            raise ValueError(f"{path}: a damaged gzip file (cut off)")
        parts.append(part)
        data = decompressor.unused_data.lstrip(b"\0")  # tools pad with zeros
    return b"".join(parts)


def _encoding_without_mark(data: bytes) -> str:
    """Tell UTF-16 without a mark by the zeros beside its first characters; else it is UTF-8."""
    first = data[:64]
    if len(first) >= 4 and len(first) % 2 == 0 and any(first):
        if not any(first[1::2]):
            return "utf-16-le"
        if not any(first[0::2]):
            return "utf-16-be"
    return "utf-8"
