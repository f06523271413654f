"""Reading the label files and image sizes of many images."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from vision.datasets.image_headers import image_size
from vision.datasets.yolo_folder import label_candidates
from vision.datasets.yolo_rows import LabelRows, read_rows
from vision.files.guarded import read_regular, regular_only
from vision.files.text import SMALL_TEXT, decode_text

# Threads wait for the disk side by side: 30,000 images that are not in the page cache take 4.4 s,
# in one thread 14.7 s. Processes gain nothing more.
_NUM_THREADS = 8
_CHUNK = 32  # images that a thread reads at a time
_BLOCK = 1024  # images in a LabelledImages
_USUAL_BYTES = 1 << 16  # nearly every label file has fewer
_UNREAD = (1, 1)  # stands for the size of an image that cannot be read


@dataclass
class LabelledImages:
    """What the disk has about some images."""

    images: Sequence[str]
    sizes: np.ndarray  # int64 [I, 2], (height, width), upright
    label_files: list[str]  # where each is, or would be
    num_without: int  # images without a label file
    rows: LabelRows  # its files are counted as the images
    unreadable: dict[int, str]  # position: why the image cannot be read; its size is (1, 1)


def read_labelled_images(root: Path, images: Sequence[str]) -> Iterator[LabelledImages]:
    """Read label files and image headers, some hundred at a time, in the order of `images`.

    Raises:
        OSError: a label file cannot be read.
        ValueError: a label file is not text.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            chunks = [block[first : first + _CHUNK] for first in range(0, len(block), _CHUNK)]
            read = chain.from_iterable(pool.map(_read_chunk, repeat(root), chunks))
            sizes, label_files, contents = zip(*read, strict=True)
            yield LabelledImages(
                images=block,
                sizes=np.array([_UNREAD if isinstance(x, str) else x for x in sizes]),
                label_files=list(label_files),
                num_without=contents.count(None),
                rows=read_rows([content or b"" for content in contents]),
                unreadable={i: x for i, x in enumerate(sizes) if isinstance(x, str)},
            )


def _read_chunk(
    root: Path, images: Sequence[str]
) -> list[tuple[tuple[int, int] | str, str, bytes | None]]:
    """Size or why there is none, label file and its content (None: no file) of each image."""
    return [(_size_or_reason(image), *_read_labels(root, image)) for image in images]


def _size_or_reason(image: str) -> tuple[int, int] | str:
    try:
        return image_size(image)
    except (OSError, ValueError) as error:
        return str(error)


def _read_labels(root: Path, image: str) -> tuple[str, bytes | None]:
    for place in label_candidates(root, image):
        try:
            with open(place, "rb", buffering=0, opener=regular_only) as stream:
                return place, _plain(_read_whole(stream, place), place)
        except FileNotFoundError:
            continue
    return next(label_candidates(root, image)), None


def _read_whole(stream: io.RawIOBase, place: str) -> bytes:
    # A read to the end asks for the size and then once more: twice the time of a short one.
    content = stream.read(_USUAL_BYTES)
    return content if len(content) < _USUAL_BYTES else read_regular(place, most_bytes=SMALL_TEXT)


def _plain(content: bytes, place: str) -> bytes:
    """The text of a label file as UTF-8; nearly all are ASCII, which is seen at once.

    Raises:
        ValueError: it is not text, or a placeholder of `stand_ins`; those begin with `v` or `<`.
    """
    if content.isascii() and b"\0" not in content and not content.startswith((b"v", b"<")):
        return content
    return decode_text(content, place, most_bytes=SMALL_TEXT).encode()
