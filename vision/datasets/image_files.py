"""Decoding image files to RGB pixels, upright by EXIF."""

import io
from pathlib import Path

import cv2
import numpy as np

from vision.datasets.image_headers import JPEG_MAGIC, TIFF_MAGIC, read_header
from vision.datasets.jpeg import is_cut_off
from vision.files.guarded import read_regular

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
    data = read_regular(path)
    try:
        height, width, orientation = read_header(io.BytesIO(data))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    orientation = _resolve_orientation(path, (height, width), orientation, size)
    if min_size is not None and orientation >= 5:
        min_size = (min_size[1], min_size[0])
    reduction = _jpeg_reduction(data, (height, width), min_size)
    return _turn_upright(_decode(path, data, reduction), orientation)


def quiet_opencv() -> None:
    """Silence OpenCV's messages on damaged files, which the toolkit names itself; 0.3 us."""
    if hasattr(cv2, "setLogLevel"):  # version 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


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
    quiet_opencv()
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
