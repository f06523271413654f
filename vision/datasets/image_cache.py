"""Cache of decoded, reduced training images, in shared memory or a file (--cache ram, disk)."""

import logging
import mmap
import os
import shutil
import tempfile
from multiprocessing import reduction
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from vision.datasets.image_files import read_image
from vision.files.available_memory import available_memory

logger = logging.getLogger(__name__)
CACHES = ("none", "ram", "disk")
# Size of a cached image relative to the network's input. A crop of 2/3 of each side then still has
# as many pixels as the input; smaller crops are enlarged.
WORKING_SCALE = 1.5
# Largest share of the available memory for the cache; the rest is for training.
MEMORY_SHARE = 0.8


class SharedBlock:
    """A block of bytes shared by the processes of a run, without a name in any file system.

    So nothing has to be removed: the system frees it with the last process, however that ends.
    Workers inherit the open file (fork), or get it by pickling (spawn and forkserver).

    Attributes:
        data: uint8 [num_bytes]; what one process writes, all others see.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        memory = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
        self.data = np.frombuffer(memory, np.uint8)

    def __reduce__(self) -> tuple:
        return _attach_block, (reduction.DupFd(self._file.fileno()),)


def _attach_block(descriptor: "reduction.DupFd") -> SharedBlock:
    return SharedBlock(os.fdopen(descriptor.detach(), "r+b", buffering=0))


class ImageCache:
    """Decoded images at their working size; each is decoded when it is first needed.

    The pixels depend on the file and the working size alone: they are the same at first and later
    reads, with any number of workers, in memory or on disk, and after a resume.

    Args:
        sizes: (height, width) [N, 2] of the upright images.
        working_sizes: (height, width) [N, 2] of the cached images.
        block: `block_bytes(working_sizes)` bytes, all 0.
    """

    def __init__(self, sizes: np.ndarray, working_sizes: np.ndarray, block: SharedBlock):
        self._sizes = sizes
        self._working_sizes = working_sizes
        self._ends = len(sizes) + np.cumsum(_num_bytes(working_sizes))
        self._block = block

    def read(self, i: int, path: str | os.PathLike) -> np.ndarray:
        """Return the pixels of image `i`, which is read from `path` if it is not in the cache.

        Returns:
            uint8 [h, w, 3] RGB; must not be written to.

        Raises:
            ValueError, OSError: as `read_image`.
        """
        data = self._block.data
        height, width = self._working_sizes[i].tolist()
        end = int(self._ends[i])
        kept = data[end - height * width * 3 : end].reshape(height, width, 3)
        if not data[i]:
            size = tuple(self._sizes[i].tolist())
            image = read_image(path, size=size, min_size=(height, width))
            if image.shape != kept.shape:
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            kept[:] = image
            # The flag comes last: a killed process leaves no half image with a flag. Two processes
            # that decode the same image at the same time write the same bytes.
            data[i] = 1
        return kept


def build_image_cache(
    kind: str, sizes: np.ndarray, *, input_size: tuple[int, int], folder: str | os.PathLike
) -> ImageCache:
    """Make a cache for images of these sizes, and log its size.

    Args:
        kind: `ram`, or `disk` for a file.
        sizes: (height, width) [N, 2] of the upright images.
        input_size: (height, width) of the network's input.
        folder: folder of the file; it may not exist yet.

    Raises:
        ValueError: too little memory or disk space is free, or the system has no such cache.
        OSError: the file cannot be made.
    """
    if os.name != "posix":
        raise ValueError("--cache needs Linux or macOS: leave it out")
    working_sizes = np.minimum(sizes, np.ceil(np.multiply(input_size, WORKING_SCALE))).astype(int)
    num_bytes = block_bytes(working_sizes)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    place = _existing_folder(Path(folder))
    where = "shared memory" if kind == "ram" else f"a file in {place}"
    each = f" for each of {processes} processes" if processes > 1 else ""
    logger.info("image cache: %d images, %s in %s%s", len(sizes), _size(num_bytes), where, each)
    if kind == "ram":
        _check_memory(num_bytes * processes)
        file = _open_memory(num_bytes)
    else:
        _check_disk(num_bytes * processes, place)
        file = _open_file(num_bytes, place)
    return ImageCache(sizes, working_sizes, SharedBlock(file))


def block_bytes(working_sizes: np.ndarray) -> int:
    """Return the size of a block for these images: one flag byte and the pixels of each."""
    return len(working_sizes) + int(_num_bytes(working_sizes).sum())


def _num_bytes(working_sizes: np.ndarray) -> np.ndarray:
    return 3 * working_sizes.prod(axis=1, dtype=np.int64)


def _existing_folder(folder: Path) -> Path:
    """Return the folder or, if it does not exist yet, the nearest one above it that does."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _check_memory(needed: int) -> None:
    available = available_memory()
    if available is not None and needed > MEMORY_SHARE * available:
        raise ValueError(
            f"--cache ram needs {_size(needed)}, and {_size(available)} of memory are available, "
            f"of which it may take {MEMORY_SHARE:.0%}: use --cache disk, a smaller --image-size, "
            "or --cache none"
        )


def _check_disk(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"--cache disk needs {_size(needed)}, and {_size(free)} are free in {folder}: "
            "use another --checkpoint-folder, a smaller --image-size, or --cache none"
        )


def _open_memory(num_bytes: int) -> BinaryIO:
    # Not /dev/shm: in a container its default size is 64 MB.
    if not hasattr(os, "memfd_create"):
        raise ValueError("--cache ram needs Linux: use --cache disk or none")
    file = os.fdopen(os.memfd_create("image cache"), "r+b", buffering=0)
    file.truncate(num_bytes)
    return file


def _open_file(num_bytes: int, folder: Path) -> BinaryIO:
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  it has no name
    if hasattr(os, "posix_fallocate"):  # else a disk that fills up later would kill by SIGBUS
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:  # it names no file
            raise OSError(error.errno, error.strerror, str(folder)) from None
    else:
        file.truncate(num_bytes)
    return file


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
