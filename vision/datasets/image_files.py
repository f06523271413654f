"""Reading image files: pixels in RGB, upright by EXIF, and sizes from the header alone."""

import io
import os
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from vision.datasets.jpeg import is_cut_off

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff"}
)
# Pictures, but of kinds that are not read here.
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jp2", ".j2k", ".jxl", ".psd", ".dng", ".cr2", ".cr3",
     ".nef", ".arw", ".raf", ".orf", ".rw2", ".svg", ".ppm", ".pgm", ".exr", ".hdr", ".tga"}
)  # fmt: skip

JPEG_MAGIC = b"\xff\xd8"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_pillow_limit = threading.Lock()
_HEAD_BYTES = 4096
_EXIF_ORIENTATION = 0x0112
# Decoding to RGB directly saves the channel swap (530 against 500 images/s at 640x480, one core);
# the flag came with OpenCV 4.11. The orientation is applied here, not by OpenCV, whose versions
# differ in the formats that they turn: image_size and read_image must agree.
_DECODES_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")
_COLOR = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}  # the bits of cv2.IMREAD_REDUCED_COLOR_2, _4 and _8


def read_image(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    min_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode an image file to RGB, turned upright by its EXIF orientation.

    Args:
        path: a JPEG, PNG, BMP, WebP or TIFF file; grayscale, palette, alpha and CMYK become RGB.
        size: (height, width) as the annotations state it. Where only the unrotated pixels have
            that size, they are returned unrotated: the annotations decide.
        min_size: (height, width) that is enough. A JPEG may then be decoded at 1/2, 1/4 or 1/8,
            never below this size on either axis; scale boxes by the ratio of the sizes.

    Returns:
        A contiguous uint8 array [H, W, 3].

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: it is not a whole image, or its size is not `size`; the path is named.
    """
    data = Path(path).read_bytes()
    try:
        height, width, orientation = read_header(io.BytesIO(data))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    orientation = _resolve_orientation(path, (height, width), orientation, size)
    if min_size is not None and orientation >= 5:
        min_size = (min_size[1], min_size[0])
    reduction = _jpeg_reduction(data, (height, width), min_size)
    return _turn_upright(_decode(path, data, reduction), orientation)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image in pixels, from the header without decoding.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: it is not an image; the path is named.
    """
    with open(path, "rb", buffering=0) as stream:
        try:
            height, width, orientation = _read_header_of_file(stream)
        except ValueError as error:
            raise ValueError(f"{path}: not a readable image ({error})") from None
    return (width, height) if orientation >= 5 else (height, width)


class ImagesBelow(NamedTuple):
    """The pictures below a folder, sorted; hidden files are left out."""

    images: list[str]  # of kinds that are read, by their suffix
    others: list[str]  # of kinds that are not


def scan_images(folder: str | Path, *, recursive: bool = True) -> ImagesBelow:
    """Look for pictures in a folder, and unless `recursive` is false in those below it."""
    found = ImagesBelow([], [])
    for parent, folders, names in os.walk(folder, followlinks=True):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                found.images.append(os.path.join(parent, name))
            elif suffix in OTHER_SUFFIXES:
                found.others.append(os.path.join(parent, name))
        if not recursive:
            folders.clear()
    found.images.sort()
    found.others.sort()
    return found


def list_images(folder: str | Path) -> list[str]:
    """All files below a folder that have an image's suffix, sorted; hidden ones are left out."""
    return scan_images(folder).images


def _resolve_orientation(
    path: str | Path, stored: tuple[int, int], orientation: int, size: tuple[int, int] | None
) -> int:
    """The orientation to apply so that the result has the annotated size."""
    upright = stored[::-1] if orientation >= 5 else stored
    if size is None or tuple(size) == upright:
        return orientation
    if tuple(size) == stored:
        return 1
    raise ValueError(
        f"{path}: the image is {upright[1]}x{upright[0]} pixels, but its annotations "
        f"were made for {size[1]}x{size[0]}; replace the image or correct its entry"
    )


def _jpeg_reduction(data: bytes, stored: tuple[int, int], min_size: tuple[int, int] | None) -> int:
    """Largest divisor of 8, 4, 2, 1 at which a JPEG still has `min_size`."""
    if min_size is None or not data.startswith(JPEG_MAGIC):
        return 1
    for divisor in (8, 4, 2):
        # libjpeg rounds a scaled size up
        if all(-(-have // divisor) >= need for have, need in zip(stored, min_size, strict=True)):
            return divisor
    return 1


def _decode(path: str | Path, data: bytes, reduction: int) -> np.ndarray:
    flags = _COLOR | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[reduction]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"{path}: cannot be decoded ({error.err or error})") from None
    if image is None or (data.startswith(JPEG_MAGIC) and is_cut_off(data)):
        if data.startswith(TIFF_MAGIC):
            raise ValueError(
                f"{path}: damaged, or a TIFF of a kind that OpenCV does not read; make its samples "
                "8 bits"
            )
        raise ValueError(f"{path}: truncated or damaged; run validate_image_files.py")
    return image if _DECODES_RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation 1..8 of stored pixels [H, W, 3]."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


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
    return read_header(io.BufferedReader(stream))


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

    with _pillow_limit:  # this reads no pixels, so however many there are
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
