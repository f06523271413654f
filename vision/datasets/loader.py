"""Batches of images and targets, made by worker processes."""

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
    """A DataLoader whose batches are images uint8 [B, 3, H, W] and a list of target dicts.

    Images lie in memory as channels-last. Targets hold boxes float32 [N, 4], labels int64 [N],
    iscrowd bool [N] as tensors, and image_id, index, orig_size (height, width) as numbers.

    Args:
        dataset: items (image uint8 [H, W, 3], target dict of arrays), addressed by (epoch, index).
        batch_size: images a batch.
        num_workers: processes that read and augment; 0 does it in this one.
        seed: of the order.
        shuffle: training order; otherwise the data set's.
        rank, world_size: which process this is, of how many that share the batches.
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
            collate_fn=_Collate(batch_size + 1),
            worker_init_fn=_init_worker,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Seeds the workers, which use no seed; not drawn from training's generator, whose
            # state would then depend on the number of workers.
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
        """Choose the epoch that the next iteration goes through, and its first batch."""
        self.sampler.epoch = epoch
        self.sampler.start_batch = start_batch

    def close(self) -> None:
        """Stop the workers now; a loader that is let go of, or the end of the process, does too."""
        _stop_workers(weakref.ref(self.loader), self._workers)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            ValueError: an image could not be read; one line that names it.
        """
        try:
            iterator = iter(self.loader)
            self._workers[:] = getattr(iterator, "_workers", [])
            for images, targets in iterator:
                yield images, [_to_tensors(target) for target in targets]
        except (ValueError, OSError) as error:
            # What a worker raised comes with its traceback as text; the last line says what it was.
            message = (str(error).strip().splitlines() or ["an image cannot be read"])[-1]
            # torch's traceback refers to itself: it would keep the workers until the garbage
            # collector comes, which takes them apart in an order that leaves them running.
            error.__traceback__ = None
            raise ValueError(message.removeprefix(f"{type(error).__name__}: ")) from None


class _Collate:
    """Stack images one by one, in memory that an earlier batch no longer needs.

    Memory that is given back to the system comes again page by page. Targets stay numpy arrays,
    which cross to the main process in one message.

    Args:
        max_images: of a batch.
    """

    def __init__(self, max_images: int):
        self.max_images = max_images
        self._lent: list[tuple[np.ndarray, weakref.ref]] = []

    def __call__(self, items: Iterable[tuple[np.ndarray, dict]]) -> Batch:
        memory, targets = None, []
        for image, target in items:
            if memory is None:
                memory = self._free_memory((self.max_images, *image.shape))
            memory[len(targets)] = image
            targets.append(target)
        images = memory[: len(targets)]
        # The tensor, and every other one that shares its memory, holds this view.
        self._lent.append((memory, weakref.ref(images)))
        return torch.from_numpy(images).permute(0, 3, 1, 2), targets

    def __reduce__(self) -> tuple:
        return _Collate, (self.max_images,)

    def _free_memory(self, shape: tuple[int, ...]) -> np.ndarray:
        """Take the memory of a batch that nobody has any more, or new memory."""
        # The consumer has one, one is being yielded, and this one; others are let go.
        del self._lent[:-3]
        for place, (memory, images) in enumerate(self._lent):
            if images() is None and memory.shape == shape:
                del self._lent[place]
                return memory
        return np.empty(shape, np.uint8)


def _to_tensors(target: dict) -> dict:
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in target.items()
    }


def _init_worker(worker_id: int) -> None:
    """One thread a worker; signals are the main process's business, which stops the workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop_workers(reference: "weakref.ref[DataLoader]", workers: list[BaseProcess]) -> None:
    """Stop the workers of a loader, also if an error has left it open when the process ends.

    multiprocessing would send them SIGTERM, which they ignore, and wait for them for ever.
    """
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
