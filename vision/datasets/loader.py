"""Batches of images and targets, in an order that is a function of the seed and the epoch."""

import atexit
import signal
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = tuple[Tensor, list[dict]]


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) pairs; the worker that gets one needs no history.

    A last batch of a single image joins the batch before it: BatchNorm cannot train on one value
    a channel, which is what the 1x1 feature map has then.

    The batches are the same for any number of processes. In training (`shuffle`) each process gets
    its part of every batch; otherwise whole batches go round the processes.

    Attributes:
        epoch: shuffles, and reaches the data set in each pair.
        start_batch: batches of the epoch to leave out, when an epoch is continued.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0

    @property
    def num_batches(self) -> int:
        """Batches of a whole epoch, wherever this one starts."""
        full, rest = divmod(self.num_images, self.batch_size)
        joins = rest == 1 and full > 0 and self.shuffle
        return full + (rest > 0 and not joins)

    def __len__(self) -> int:
        return len(self._own_batches())

    @property
    def num_rounds(self) -> int:
        """Batches of the process that has the most of them in this iteration."""
        rest = max(0, self.num_batches - self.start_batch)
        return rest if self.shuffle else -(-rest // self.world_size)

    def batch_bounds(self, batch: int) -> tuple[int, int]:
        """Return where a batch, counted from 0, starts and stops in the order of its epoch."""
        is_last = batch == self.num_batches - 1
        start = batch * self.batch_size
        return start, self.num_images if is_last else start + self.batch_size

    def borrows(self, batch: int) -> bool:
        """Tell whether a training batch has no part for this process.

        Parts have two images or more, for BatchNorm. A last batch too small for that goes to the
        first processes; each of the others goes through its first two images without effect.
        """
        return self.rank >= self._num_parts(batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.num_images)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for batch in self._own_batches():
            start, stop = self.batch_bounds(batch)
            images = order[start:stop]
            if self.shuffle and self.borrows(batch):
                images = images[:2]
            elif self.shuffle:
                images = np.array_split(images, self._num_parts(batch))[self.rank]
            yield [(self.epoch, int(index)) for index in images]

    def _num_parts(self, batch: int) -> int:
        start, stop = self.batch_bounds(batch)
        return max(1, min(self.world_size, (stop - start) // 2))

    def _own_batches(self) -> range:
        if self.shuffle:
            return range(self.start_batch, self.num_batches)
        return range(self.start_batch + self.rank, self.num_batches, self.world_size)


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
