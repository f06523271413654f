"""One look at each image file: is it readable, and which other files look the same?"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np

from vision.datasets.findings import no_progress
from vision.datasets.image_headers import JPEG_MAGIC, read_header
from vision.datasets.jpeg import is_cut_off
from vision.files.guarded import read_regular

THUMBNAIL = 16  # pixels a side
_AT_ONCE = 1024
_SMALL = 32  # of the picture that the hash is computed of
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 1: cv2.IMREAD_GRAYSCALE}  # fmt: skip


@dataclass
class Looks:
    """What I image files are like; where one cannot be read its row is zero.

    Attributes:
        problems: {position: why it cannot be read}.
        digests: of the files' bytes, uint8 [I, 16].
        hashes: of what they show, uint64 [I]: alike for images that look alike.
        thumbnails: gray, uint8 [I, 16, 16].
        stored: (height, width) in pixels, int32 [I, 2].
        upright: the same as EXIF turns them.
    """

    problems: dict[int, str]
    digests: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray
    stored: np.ndarray
    upright: np.ndarray

    def is_read(self) -> np.ndarray:
        """Which images could be read: bool [I]."""
        good = np.ones(len(self.hashes), bool)
        good[list(self.problems)] = False
        return good


def look_at_images(
    paths: Sequence[str], *, progress: Callable[..., Iterable] = no_progress
) -> Looks:
    """Read and decode all files, JPEGs at an eighth of their size, on all cores.

    Args:
        paths: of the files.
        progress: wraps the iteration, called with `total=`, as tqdm does.
    """
    count = len(paths)
    looks = Looks(
        problems={},
        digests=np.zeros((count, 16), np.uint8),
        hashes=np.zeros(count, np.uint64),
        thumbnails=np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint8),
        stored=np.zeros((count, 2), np.int32),
        upright=np.zeros((count, 2), np.int32),
    )
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # OpenCV releases the GIL
        # Some at a time: each that waits has an object of a kilobyte.
        starts = range(0, count, _AT_ONCE)
        results = chain.from_iterable(pool.map(_look, paths[i : i + _AT_ONCE]) for i in starts)
        for i, result in enumerate(progress(results, total=count)):
            if isinstance(result, str):
                looks.problems[i] = result
            else:
                looks.digests[i], looks.hashes[i], looks.thumbnails[i], *sizes = result
                looks.stored[i], looks.upright[i] = sizes
    return looks


def _look(path: str) -> tuple | str:
    """Digest, hash, thumbnail, stored and upright size of a file, or why it cannot be read."""
    try:
        data = read_regular(path)
        height, width, orientation = read_header(io.BytesIO(data))
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    is_jpeg = data.startswith(JPEG_MAGIC)
    reduction = next(r for r in _REDUCED if r == 1 or min(height, width) >= _SMALL * r)
    flags = _REDUCED[reduction if is_jpeg else 1] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        return f"cannot be decoded ({error.err or error})"
    if gray is None or (is_jpeg and is_cut_off(data)):
        return "truncated or damaged"
    digest = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint8)
    small = cv2.resize(gray, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(small, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    upright = (width, height) if orientation >= 5 else (height, width)
    return digest, perceptual_hash(small), thumbnail, (height, width), upright


def perceptual_hash(gray: np.ndarray) -> int:
    """64 bits that are alike for images that look alike.

    The signs of the 64 lowest frequencies of the cosine transform against their median (as in
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2).

    Args:
        gray: uint8 [32, 32].
    """
    low = cv2.dct(gray.astype(np.float32))[1:9, 1:9]  # without what brightness changes
    bits = (low > np.median(low)).ravel()
    return int(np.packbits(bits).view(">u8")[0])
