"""Images that are the same file, or look the same, among many."""

import numpy as np

from vision.doctor.look import Looks

MOST_BITS = 6  # by which the hashes of two images that look the same differ
MOST_GRAY = 8.0  # by which their thumbnails differ, of 255, on average
_BANDS = 8  # of 8 bits: with up to 7 different bits one band is equal
_PAIRS_AT_ONCE = 1 << 21
_OTHERS_AT_ONCE = 1 << 10


def same_pixels(looks: Looks) -> np.ndarray:
    """A number for each file, equal for files of the same bytes: int64 [I]; -1: not read."""
    _, number = np.unique(looks.digests, axis=0, return_inverse=True)
    return np.where(looks.is_read(), number.reshape(-1), -1)


def near_pairs(
    looks: Looks, queries: np.ndarray, among: np.ndarray, *, limit: int = 8
) -> np.ndarray:
    """Find images that look like others, files of the same bytes included.

    Only pairs that agree in 8 of the hashes' 64 bits are compared, which loses none that differ in
    MOST_BITS or fewer.

    Args:
        looks: at all images.
        queries: positions of images, [Q].
        among: positions of those that they are compared with, [A].
        limit: matches of a query that are kept of each group of hashes: the frames of a standing
            camera are all alike.

    Returns:
        Pairs of a query and its match, int64 [N, 2], sorted; no image is its own match.
    """
    count = max(1, len(looks.hashes))
    found = np.zeros(0, np.int64)  # first * count + second
    is_read = looks.is_read()
    queries, among = queries[is_read[queries]], among[is_read[among]]
    for band in range(_BANDS):
        query_buckets, buckets = _buckets(looks, queries, band), _buckets(looks, among, band)
        parts = [found]
        for rows, others in zip(query_buckets, buckets, strict=True):
            step = _PAIRS_AT_ONCE // _OTHERS_AT_ONCE
            for start in range(0, len(rows), step):
                pairs = _nearest(looks, rows[start : start + step], others, limit)
                parts.append(pairs[:, 0] * count + pairs[:, 1])
        found = np.unique(np.concatenate(parts))  # most are found in several bands
    return np.stack([found // count, found % count], axis=1)


def _buckets(looks: Looks, rows: np.ndarray, band: int) -> list[np.ndarray]:
    """The images of each value of 8 bits of the hash."""
    keys = (looks.hashes[rows] >> np.uint64(8 * band)) & np.uint64(255)
    order = np.argsort(keys, kind="stable")
    return np.split(rows[order], np.searchsorted(keys[order], np.arange(1, 256)))


def _nearest(looks: Looks, rows: np.ndarray, others: np.ndarray, limit: int) -> np.ndarray:
    """For each row the first `limit` of the others that look like it: int64 [N, 2].

    A row that has found enough is compared with no more, so that many that are all alike take no
    longer than as many that are not.
    """
    most = 4 * limit  # before the thumbnails are compared
    counts, waiting = np.zeros(len(rows), np.int64), np.arange(len(rows))
    parts = [np.zeros((0, 2), np.int64)]  # the row's position in `rows`, and the other
    for start in range(0, len(others), _OTHERS_AT_ONCE):
        part = others[start : start + _OTHERS_AT_ONCE]
        bits = popcount(looks.hashes[rows[waiting]][:, None] ^ looks.hashes[part])
        is_near = (bits <= MOST_BITS) & (rows[waiting][:, None] != part)
        is_near &= counts[waiting][:, None] + np.cumsum(is_near, axis=1) <= most
        first, second = np.nonzero(is_near)
        parts.append(np.stack([waiting[first], part[second]], axis=1))
        counts[waiting] += is_near.sum(axis=1)
        waiting = waiting[counts[waiting] < most]
        if not len(waiting):
            break
    found = np.concatenate(parts)
    position, other = found[np.argsort(found[:, 0], kind="stable")].T
    pairs = np.stack([rows[position], other], axis=1)
    agree = _thumbnails_agree(looks, pairs)
    position = position[agree]
    rank = np.arange(len(position)) - np.searchsorted(position, position)
    return pairs[agree][rank < limit]


def _thumbnails_agree(looks: Looks, pairs: np.ndarray) -> np.ndarray:
    agree = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), 1 << 15):
        part = pairs[start : start + (1 << 15)]
        first, second = (looks.thumbnails[part[:, k]].astype(np.int16) for k in (0, 1))
        agree[start : start + len(part)] = np.abs(first - second).mean(axis=(1, 2)) <= MOST_GRAY
    return agree


def popcount(numbers: np.ndarray) -> np.ndarray:
    """The number of bits that are set in each uint64."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(numbers)
    table = np.array([bin(i).count("1") for i in range(256)], np.uint8)
    return table[numbers[..., None].view(np.uint8)].sum(axis=-1)


def groups_of(count: int, pairs: np.ndarray) -> np.ndarray:
    """The smallest position that each of `count` images is connected to by pairs: int64 [count]."""
    parent = np.arange(count)

    def root(i: int) -> int:
        """Follow the parents of i to the first of its group, and shorten the way (union-find)."""
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for first, second in pairs.tolist():
        a, b = root(first), root(second)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(count)], dtype=np.int64)
