"""Which images make up a batch: a function of the seed and the epoch, split over processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


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
