"""The loader: batches of images and targets, read and augmented by worker processes."""

import atexit
import signal
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vision.datasets.batch_sampler import EpochBatchSampler

Batch = tuple[Tensor, list[dict]]


class DetectionLoader:
    """Yields batches: images uint8 [B, 3, H, W], channels-last, and a list of target dicts.

    A target has boxes float32 [N, 4], labels int64 [N] and iscrowd bool [N] as tensors, and
    image_id, index and orig_size (height, width) as numbers.

    Args:
        dataset: its items, for (epoch, index), are (image uint8 [H, W, 3], target dict of arrays);
            one with `views_per_item` gives so many of these for each.
        batch_size: images in a batch.
        num_workers: processes that read and augment; 0: this process does it.
        seed: seed of the shuffling.
        shuffle: shuffle the images, for training; otherwise in the order of the data set.
        rank, world_size: number of this process, and number of processes that share the batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        num_workers: int,
        seed: int = 0,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset = dataset
        self.sampler = EpochBatchSampler(
            len(dataset),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
        )
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.sampler,
            num_workers=num_workers,
            collate_fn=_Collate((batch_size + 1) * getattr(dataset, "views_per_item", 1)),
            worker_init_fn=_init_worker,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # DataLoader draws a seed for the workers, which do not use it. From torch's global
            # generator, the state of training would depend on the number of workers.
            generator=torch.Generator(),
        )
        self._workers: list[BaseProcess] = []
        atexit.register(_stop_workers, weakref.ref(self.loader), self._workers)

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch."""
        return self.sampler.num_batches

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch of the next iteration, and its first batch."""
        self.sampler.epoch = epoch
        self.sampler.start_batch = start_batch

    def close(self) -> None:
        """Stop the workers now, not only when the loader is deleted or the process ends."""
        _stop_workers(weakref.ref(self.loader), self._workers)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            ValueError: an image cannot be read; one line that names it.
        """
        try:
            iterator = iter(self.loader)
            self._workers[:] = getattr(iterator, "_workers", [])
            for images, targets in iterator:
                yield images, [_to_tensors(target) for target in targets]
        except (ValueError, OSError) as error:
            # A worker's error arrives with its traceback as text; the last line is the message.
            message = (str(error).strip().splitlines() or ["an image cannot be read"])[-1]
            # The traceback is part of a reference cycle that holds the iterator. The garbage
            # collector would delete it later, in an order that leaves the workers running.
            error.__traceback__ = None
            raise ValueError(message.removeprefix(f"{type(error).__name__}: ")) from None


class _Collate:
    """Copy images one by one into a batch, in memory that an earlier batch no longer uses.

    New memory from the system would be slower: the kernel clears and maps each page. Targets stay
    NumPy arrays, which are sent to the main process in one message.

    Args:
        max_images: largest number of images in a batch.
    """

    def __init__(self, max_images: int):
        self.max_images = max_images
        # The memory of earlier batches, and a reference that tells whether the batch still exists.
        self._batches: list[tuple[np.ndarray, weakref.ref]] = []

    def __call__(self, items: Iterable[tuple[np.ndarray, dict]]) -> Batch:
        """Return the images as uint8 [B, 3, H, W], channels-last, and the targets."""
        memory, targets = None, []
        for image, target in items:
            if memory is None:
                memory = self._free_memory((self.max_images, *image.shape))
            memory[len(targets)] = image
            targets.append(target)
        images = memory[: len(targets)]
        # Every tensor that uses this memory holds a reference to `images`.
        self._batches.append((memory, weakref.ref(images)))
        return torch.from_numpy(images).permute(0, 3, 1, 2), targets

    def __reduce__(self) -> tuple:
        return _Collate, (self.max_images,)

    def _free_memory(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the memory of a batch that no longer exists, or new memory."""
        # At most three batches exist: the consumer's, the one being passed on, and this one.
        del self._batches[:-3]
        for place, (memory, images) in enumerate(self._batches):
            if images() is None and memory.shape == shape:
                del self._batches[place]
                return memory
        return np.empty(shape, np.uint8)


def _to_tensors(target: dict) -> dict:
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in target.items()
    }


def _init_worker(worker_id: int) -> None:
    """Use one thread; ignore SIGINT and SIGTERM, since the main process stops the workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop_workers(reference: "weakref.ref[DataLoader]", workers: list[BaseProcess]) -> None:
    """Stop the workers of a loader; also called at exit, in case an error has left them running.

    multiprocessing would send SIGTERM, which they ignore, and then wait for them without end.
    """
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
