"""Which bytes of a file each of several connections fetches."""

from dataclasses import dataclass

from vision.download.part_file import PartFile

# Less than this is not worth a request of its own.
SPLIT_BYTES = 1 << 20


@dataclass(eq=False)
class Piece:
    """Bytes [start, end) that one connection is fetching; None: to the end, wherever that is.

    `start` moves as bytes are written, `end` when another connection takes over the rest.
    `gained` counts bytes that were not there before.
    """

    start: int
    end: int | None
    gained: int = 0


class Pieces:
    """Shares the missing bytes of a file among connections; the caller holds the lock.

    Args:
        part: the file, its length known.
        connections: how many will ask; one gets each gap whole.
    """

    def __init__(self, part: PartFile, connections: int) -> None:
        self._part = part
        self._active: list[Piece] = []
        missing = sum(end - start for start, end in part.missing())
        self._piece_bytes = max(SPLIT_BYTES, -(-missing // connections))

    def take(self) -> Piece | None:
        """Free bytes, else half of what the slowest connection has still to do, else None."""
        piece = self._free() or self._second_half_of_largest()
        if piece:
            self._active.append(piece)
        return piece

    def release(self, piece: Piece) -> None:
        """Let others take what `piece` has left undone."""
        self._active.remove(piece)

    def _free(self) -> Piece | None:
        for start, end in self._part.missing():
            for other in sorted(self._active, key=lambda piece: piece.start):
                if other.start <= start < other.end:
                    start = other.end
                elif start < other.start < end:
                    end = other.start
            if start < end:
                return Piece(start, min(end, start + self._piece_bytes))
        return None

    def _second_half_of_largest(self) -> Piece | None:
        largest = max(self._active, key=lambda piece: piece.end - piece.start, default=None)
        if largest is None or largest.end - largest.start < 2 * SPLIT_BYTES:
            return None
        middle, end = (largest.start + largest.end) // 2, largest.end
        largest.end = middle
        return Piece(middle, end)
