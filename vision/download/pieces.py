"""Sharing the missing bytes of a file among several connections (`--connections`).

Worth its code for servers that limit each connection: at 2 MB/s for each, 48 MB take 2.31 s with 8
connections, and 23.06 s with curl's one (benchmarks/download_connections.py).
"""

from dataclasses import dataclass

from vision.download.part_file import PartFile

# A smaller piece is not worth a request of its own.
SPLIT_BYTES = 1 << 20


@dataclass(eq=False)
class Piece:
    """Bytes [start, end) that one connection is fetching; `end` None: to the end of the file.

    `start` grows as bytes are written; `end` shrinks when another connection takes over a part.
    `gained` counts the bytes that were not on disk before.
    """

    start: int
    end: int | None
    gained: int = 0


class Pieces:
    """Gives pieces of a file to connections; the caller must hold a lock around every call.

    Args:
        part: the file, its length known.
        connections: how many share it; with one, each gap is one piece.
    """

    def __init__(self, part: PartFile, connections: int) -> None:
        self._part = part
        self._active: list[Piece] = []
        missing = sum(end - start for start, end in part.missing())
        self._piece_bytes = max(SPLIT_BYTES, -(-missing // connections))

    def take(self) -> Piece | None:
        """Return missing bytes that nobody fetches, else half of the largest piece, else None."""
        piece = self._free() or self._second_half_of_largest()
        if piece:
            self._active.append(piece)
        return piece

    def release(self, piece: Piece) -> None:
        """End the work on `piece`; the bytes it still lacks can be taken again."""
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
