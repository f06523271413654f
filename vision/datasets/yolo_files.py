"""Reading the label files and image sizes of many images, in threads and processes."""

import io
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from vision.datasets.image_files import image_size
from vision.datasets.yolo_folder import label_candidates
from vision.datasets.yolo_rows import LabelRows, read_rows

# Threads wait for the disk side by side; from the page cache they gain nothing, processes do.
_NUM_THREADS = 8
_CHUNK = 32
_BLOCK = 1024
# Processes start in the time in which one reads a thousand images.
_MANY_BLOCKS = 8
_USUAL_BYTES = 1 << 16


@dataclass
class LabelledImages:
    """What the disk has about some images."""

    images: Sequence[str]
    sizes: np.ndarray  # int64 [I, 2], (height, width), upright
    label_files: list[str]  # where each is, or would be
    num_without: int  # images without a label file
    rows: LabelRows  # its files are counted as the images


def read_labelled_images(
    root: Path, images: Sequence[str], *, workers: int | None = None
) -> Iterator[LabelledImages]:
    """Read label files and image headers, some hundred at a time, in the order of `images`.

    Args:
        workers: processes; by default as many as there are cores, and one where there is little
            to do.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not an image.
    """
    blocks = [images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
    if workers is None:
        workers = min(_num_cores(), len(blocks) // _MANY_BLOCKS)
    read = partial(_read_block, root)
    if workers <= 1:
        yield from map(read, blocks)
        return
    pool = ProcessPoolExecutor(
        workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_DFL)
    )
    try:
        yield from pool.map(read, blocks)
    except BrokenProcessPool:
        raise OSError(f"{root}: a process that reads the labels died; is memory full?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_block(root: Path, images: Sequence[str]) -> LabelledImages:
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    with ThreadPoolExecutor(min(_NUM_THREADS, len(chunks))) as pool:
        read = list(chain.from_iterable(pool.map(_read_chunk, repeat(root), chunks)))
    sizes, label_files, contents = zip(*read, strict=True)
    return LabelledImages(
        images=images,
        sizes=np.array(sizes, dtype=np.int64),
        label_files=list(label_files),
        num_without=contents.count(None),
        rows=read_rows([content or b"" for content in contents]),
    )


def _read_chunk(
    root: Path, images: Sequence[str]
) -> list[tuple[tuple[int, int], str, bytes | None]]:
    """Size, label file and its content (None: there is no such file) of each image."""
    return [(image_size(image), *_read_labels(root, image)) for image in images]


def _read_labels(root: Path, image: str) -> tuple[str, bytes | None]:
    for place in label_candidates(root, image):
        try:
            with open(place, "rb", buffering=0) as stream:
                return place, _read_whole(stream)
        except FileNotFoundError:
            continue
    return next(label_candidates(root, image)), None


def _read_whole(stream: io.RawIOBase) -> bytes:
    # A read to the end asks for the size and then once more: twice the time of a short one.
    content = stream.read(_USUAL_BYTES)
    return content if len(content) < _USUAL_BYTES else content + stream.read()
