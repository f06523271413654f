"""The sizes of images, upright by EXIF, from the header of the file alone."""

import io
import struct
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from vision.files.guarded import regular_only
from vision.files.stand_ins import stand_in

JPEG_MAGIC = b"\xff\xd8"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_pillow_limit = threading.Lock()
_HEAD_BYTES = 4096
_EXIF_ORIENTATION = 0x0112


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image in pixels, from the header without decoding.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: it is not an image; the path is named.
    """
    with open(path, "rb", buffering=0, opener=regular_only) as stream:
        try:
            height, width, orientation = _read_header_of_file(stream)
        except ValueError as error:
            raise ValueError(f"{path}: not a readable image ({error})") from None
    return (width, height) if orientation >= 5 else (height, width)


def read_header(stream: BinaryIO) -> tuple[int, int, int]:
    """(height, width, EXIF orientation 1..8) of the stored pixels, from a stream at its start.

    Raises:
        ValueError: it is not an image or its header is cut off; the caller names the file.
    """
    magic = stream.read(8)
    if not magic:
        raise ValueError("the file is empty")
    try:
        if magic.startswith(JPEG_MAGIC):
            return _read_jpeg_header(stream)
        if magic == b"\x89PNG\r\n\x1a\n":
            return _read_png_header(stream)
    except struct.error:
        raise ValueError("its header is cut off") from None
    stream.seek(0)
    problem = stand_in(stream.read(512))
    if problem:
        raise ValueError(problem)
    stream.seek(0)
    try:
        return _read_header_with_pillow(stream)
    except ValueError:
        if magic.startswith((b"RIFF", b"BM")):
            raise ValueError("it is damaged or cut off") from None
        raise


def _read_header_of_file(stream: io.RawIOBase) -> tuple[int, int, int]:
    """`read_header` from one read of the disk, for nearly all JPEG and PNG files."""
    head = stream.read(_HEAD_BYTES)
    if head.startswith((b"\xff\xd8", b"\x89PNG")):
        with suppress(ValueError):
            return read_header(io.BytesIO(head))
    stream.seek(0)
    with io.BufferedReader(stream) as buffered:
        return read_header(buffered)


def _read_jpeg_header(stream: BinaryIO) -> tuple[int, int, int]:
    orientation = 1
    stream.seek(2)
    while True:
        prefix, marker = struct.unpack("BB", stream.read(2))
        if prefix != 0xFF or marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xDA:
            # fill bytes, or no frame before the scan: rare, so left to the slower reader
            stream.seek(0)
            return _read_header_with_pillow(stream)
        (length,) = struct.unpack(">H", stream.read(2))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _, height, width = struct.unpack(">BHH", stream.read(5))
            return height, width, orientation
        if marker == 0xE1:
            segment = stream.read(length - 2)
            if segment.startswith(b"Exif\0\0"):
                orientation = _orientation_from_tiff(segment[6:])
        else:
            stream.seek(length - 2, io.SEEK_CUR)


def _read_png_header(stream: BinaryIO) -> tuple[int, int, int]:
    orientation, height, width = 1, 0, 0
    while True:
        length, kind = struct.unpack(">I4s", stream.read(8))
        if kind == b"IHDR":
            width, height = struct.unpack(">II", stream.read(8))
            stream.seek(length - 8 + 4, io.SEEK_CUR)  # the rest and its CRC
        elif kind == b"eXIf":
            orientation = _orientation_from_tiff(stream.read(length))
            stream.seek(4, io.SEEK_CUR)
        elif kind in (b"IDAT", b"IEND"):
            return height, width, orientation
        else:
            stream.seek(length + 4, io.SEEK_CUR)


def _orientation_from_tiff(tiff: bytes) -> int:
    """The orientation tag of the first directory; 1 where there is none or it is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (num_entries,) = struct.unpack_from(order + "H", tiff, offset)
        for entry in range(num_entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # OpenCV and Pillow read such a file as upright, too
    return 1


def _read_header_with_pillow(stream: BinaryIO) -> tuple[int, int, int]:
    from PIL import Image, UnidentifiedImageError  # scikit-image needs it; slow to import

    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damage, which is told by the size or by the decoder
        # No pixels are read here, so however many there are.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(stream) as image:
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                if image.format == "TIFF":
                    width, height = image.tag_v2[256], image.tag_v2[257]
                    # OpenCV always turns these upright.
                    return (width, height, 1) if orientation >= 5 else (height, width, 1)
                return image.height, image.width, orientation if orientation in range(1, 9) else 1
        except UnidentifiedImageError:
            raise ValueError("its format is unknown") from None
        except (OSError, SyntaxError, ValueError, KeyError) as error:
            raise ValueError(str(error)) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
