"""Checking image files by decoding them, in several processes."""

import contextlib
import hashlib
import os
import signal
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_byte
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import BinaryIO

from PIL import Image
from skimage import io as skimage_io

from vision.datasets.image_files import read_image
from vision.datasets.image_headers import JPEG_MAGIC, TIFF_MAGIC, read_header
from vision.datasets.jpeg import is_cut_off
from vision.files.guarded import MOST_BYTES, regular_only

# Kinds of files that training cannot use. A file that the system cannot read is not one of them:
# its content may be intact.
UNREADABLE = frozenset(
    {"empty", "not an image", "truncated", "unreadable", "decompression bomb", "kills the decoder"}
)
# Kinds that are caused by the machine, not by the file.
MACHINE_FAULTS = frozenset({"unstable", "not accessible", "not checked"})

# Larger images are refused by Pillow, and so by scikit-image: 179 million pixels. OpenCV, with
# which training reads, refuses those of more than a billion.
_MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
_MAX_PIXELS_OF_TRAINING = 1 << 30
# No photo file is this small: a flat JPEG has 300 pixels a byte, a flat colour PNG 350.
_BOMB_PIXELS_PER_BYTE = 1000
# A PNG that ends otherwise is also decoded by the reader that training uses: Pillow accepts a PNG
# without its end, OpenCV does not.
_PNG_END = b"IEND\xaeB`\x82"
_BATCH = 16
_STARTED, _DONE = 1, 2

_worker: tuple = ()  # in a worker process: the shared states of the files, the check function


class _Unsupported(Exception):
    """A sound image that the training reader does not read."""


@dataclass(frozen=True)
class ImageCheck:
    """The result for one file; `kind` is None for a valid image."""

    file: str
    kind: str | None = None
    message: str = ""
    stored_size: tuple[int, int] | None = None  # (height, width) before the EXIF orientation
    upright_size: tuple[int, int] | None = None
    num_bytes: int = 0
    sha256: str | None = None  # of an unreadable file


def check_image(file: str) -> ImageCheck:
    """Decode one file completely; an error is returned in the result, not raised."""
    first = _check_once(file)
    if first.kind not in UNREADABLE:
        return first
    if _check_once(file).kind is None:
        message = f"failed once ({first.message}), then decoded: memory may be at fault"
        return ImageCheck(file, "unstable", message)
    return first


def check_images(
    files: Sequence[str],
    *,
    workers: int,
    check: Callable[[str], ImageCheck] = check_image,
) -> Iterator[ImageCheck]:
    """Check files in `workers` processes (1: in this process), and yield the results.

    If a file kills its process (the decoder crashes, or memory runs out), each file that was being
    decoded at that moment is decoded in a process of its own, to find it; then the check continues.
    """
    if workers == 1:
        yield from map(check, files)
        return
    pending = list(files)
    while pending:
        states = RawArray("B", len(pending))
        num_yielded = 0
        try:
            for results in _run_pool(pending, states, workers, check):
                yield from results
                num_yielded += len(results)
            return
        except BrokenProcessPool:
            unfinished = {
                file for file, state in zip(pending, states, strict=True) if state == _STARTED
            }
            if not unfinished and not num_yielded:
                raise OSError("the worker processes die at once; use fewer --workers") from None
            pending = pending[num_yielded:]
            yield from (_check_alone(file, check) for file in pending if file in unfinished)
            pending = [file for file in pending if file not in unfinished]


def _run_pool(
    pending: Sequence[str],
    states: Sequence[int],
    workers: int,
    check: Callable[[str], ImageCheck],
) -> Iterator[list[ImageCheck]]:
    """Check files in batches, in processes that mark in `states` which file they are at."""
    starts = range(0, len(pending), _BATCH)
    batches = [pending[start : start + _BATCH] for start in starts]
    stop = RawValue(c_byte, False)
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(states, stop, check))
    try:
        with _interrupts_held():  # map starts the processes
            results = pool.map(_check_batch, starts, batches)
        yield from results
    finally:
        stop.value = True
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait: what it raises in the middle of starting a process can get lost."""
    received = []
    previous = signal.signal(signal.SIGINT, lambda *_: received.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if received and callable(previous):
        previous(signal.SIGINT, None)


def _check_alone(file: str, check: Callable[[str], ImageCheck]) -> ImageCheck:
    try:
        ((result,),) = _run_pool([file], [0], 1, check)
        return result
    except BrokenProcessPool:
        return ImageCheck(
            file,
            "kills the decoder",
            "the process that decodes it dies: a crash, or memory runs out",
            num_bytes=os.path.getsize(file),
            sha256=_digest(file),
        )


def _start_worker(states: Sequence[int], stop: c_byte, check: Callable[[str], ImageCheck]) -> None:
    global _worker
    _worker = (states, stop, check)
    # After Ctrl-C the main process asks it to stop. A worker that died while it held the lock of
    # the queue would keep the others waiting without end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_batch(start: int, files: list[str]) -> list[ImageCheck]:
    states, stop, check = _worker
    results = []
    for index, file in enumerate(files, start):
        if stop.value:
            break
        states[index] = _STARTED
        results.append(check(file))
        states[index] = _DONE
    return results


def _check_once(file: str) -> ImageCheck:
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            return ImageCheck(file, "not a file", "a folder, pipe or device under an image's name")
        if status.st_size > MOST_BYTES:
            message = f"{status.st_size:,} bytes, more than training reads; shrink it"
            return ImageCheck(file, "too large", message)
        with open(file, "rb", opener=regular_only) as stream:
            return _check_stream(file, stream, status.st_size)
    except OSError as error:
        return ImageCheck(file, "not accessible", error.strerror or str(error))
    except MemoryError:
        return ImageCheck(file, "not checked", "memory ran out; use fewer --workers")


def _check_stream(file: str, stream: BinaryIO, num_bytes: int) -> ImageCheck:
    def unreadable(kind: str, message: object) -> ImageCheck:
        """Make the result for a file that training cannot use."""
        text = " ".join(str(message).split())
        return ImageCheck(file, kind, text, num_bytes=num_bytes, sha256=_digest(file))

    if num_bytes == 0:
        return unreadable("empty", "the file is empty")
    try:
        height, width, orientation = read_header(stream)
    except ValueError as error:
        if "git lfs pull" in str(error):  # puts the image in its place, so it has to stay there
            return ImageCheck(file, "not fetched", str(error))
        return unreadable("truncated" if "cut off" in str(error) else "not an image", error)
    num_pixels = height * width
    is_large = num_pixels > _MAX_PIXELS
    if is_large and num_pixels > _BOMB_PIXELS_PER_BYTE * num_bytes:
        return unreadable("decompression bomb", f"{width}x{height} pixels in {num_bytes} bytes")
    if num_pixels > _MAX_PIXELS_OF_TRAINING:
        message = f"{width}x{height} pixels, more than training reads; shrink it"
        return ImageCheck(file, "too large", message)
    try:
        if is_large:
            read_image(file, min_size=(1, 1))
        else:
            _decode(file, stream)
    except MemoryError:
        raise
    except _Unsupported as error:
        return ImageCheck(file, "not for training", str(error).removeprefix(f"{file}: "))
    except Exception as error:  # damaged bytes make a decoder raise any type
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the system, not of the decoder
        return unreadable("truncated" if "runcated" in str(error) else "unreadable", error)
    upright = (width, height) if orientation >= 5 else (height, width)
    if is_large:
        message = f"{width}x{height} pixels: sound for training, more than scikit-image reads"
        return ImageCheck(file, "very large", message)
    return ImageCheck(file, stored_size=(height, width), upright_size=upright)


def _decode(file: str, stream: BinaryIO) -> None:
    """Decode all pixels with scikit-image, and with training's reader where that is stricter."""
    stream.seek(0)
    data = stream.read()
    is_whole = data.endswith(_PNG_END) or (data.startswith(JPEG_MAGIC) and not is_cut_off(data))
    stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unusual tags, and about sizes, checked above
        skimage_io.imread(stream)
    if is_whole:
        return
    try:
        read_image(file)
    except ValueError as error:
        if data.startswith(TIFF_MAGIC):
            raise _Unsupported(error) from None
        raise


def _digest(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb", opener=regular_only) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
