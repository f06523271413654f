"""Batch sampler: the batches of an epoch, from seed and epoch alone, split over processes."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches as lists of (epoch, index) pairs, all that the data set needs for an item.

    In training, a last batch of a single image is joined to the batch before it: on the 1x1 feature
    map it would have one value for each channel, and BatchNorm cannot train on that.

    The batches are the same for any number of processes. In training (`shuffle`) each process gets
    its part of every batch; otherwise process r gets the whole batches r, r + world_size, ...

    Attributes:
        epoch: part of the shuffling's seed, and of each pair.
        start_batch: batches at the start of the epoch to skip, when an epoch is continued.
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
        """Batches of a whole epoch, whatever `start_batch` is."""
        full, rest = divmod(self.num_images, self.batch_size)
        joins = rest == 1 and full > 0 and self.shuffle
        return full + (rest > 0 and not joins)

    def __len__(self) -> int:
        return len(self._own_batches())

    @property
    def num_rounds(self) -> int:
        """The largest number of batches that any process gets in this iteration."""
        rest = max(0, self.num_batches - self.start_batch)
        return rest if self.shuffle else -(-rest // self.world_size)

    def batch_bounds(self, batch: int) -> tuple[int, int]:
        """Return where batch `batch` (from 0) starts and stops in the epoch's order of images."""
        is_last = batch == self.num_batches - 1
        start = batch * self.batch_size
        return start, self.num_images if is_last else start + self.batch_size

    def is_padding(self, batch: int) -> bool:
        """Tell whether a training batch has no part for this process.

        A part has at least two images, for BatchNorm. If the last batch is too small for that, only
        the first processes get a part. Each of the others gets the batch's first two images, since
        every process must make the same calls, and its result does not count.
        """
        return self.rank >= self._num_parts(batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield this process's batches of the epoch, from `start_batch` on."""
        order = np.arange(self.num_images)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for batch in self._own_batches():
            start, stop = self.batch_bounds(batch)
            images = order[start:stop]
            if self.shuffle and self.is_padding(batch):
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
