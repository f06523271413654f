"""The ids of a COCO file as numbers; ids that are text, which some tools write, get numbers."""

from dataclasses import dataclass, field

import numpy as np

MISSING_ID = -(2**63)


@dataclass
class TextIds:
    """Numbers for the ids of images or categories that are text: "7" is 7, other text is new.

    Attributes:
        count: how many entries have such an id.
    """

    count: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _next: int = 1

    def define(self, ids: list) -> list:
        """Replace the text in the ids of the entries themselves; new numbers follow the largest."""
        texts = [number for number in ids if isinstance(number, str)]
        self.count = len(texts)
        if not texts:
            return ids
        numbers = [number for number in ids if not isinstance(number, str)]
        numbers += [int(text) for text in texts if _is_number(text)]
        self._next = 1 + max(0, 0, *map(int, numbers))
        return self.replace(ids)

    def replace(self, ids: list) -> list:
        """Replace the text in references to the entries; unknown text gets an unused number."""
        return [self._number(number) if isinstance(number, str) else number for number in ids]

    def _number(self, text: str) -> int:
        if _is_number(text):
            return int(text)
        if text not in self._numbers:
            self._numbers[text] = self._next
            self._next += 1
        return self._numbers[text]

    def shown(self, number: int) -> str:
        """The id as the file has it."""
        return next((repr(text) for text, n in self._numbers.items() if n == number), str(number))


@dataclass
class CocoIds:
    """What is known of the ids of one file: filled by reading images and categories."""

    images: TextIds = field(default_factory=TextIds)
    categories: TextIds = field(default_factory=TextIds)


def id_array(ids: list, what: str) -> np.ndarray:
    """Convert ids to int64 [N]; None becomes MISSING_ID, 3.0 becomes 3, 3.5 is a ValueError."""
    if None in ids:
        ids = [MISSING_ID if number is None else number for number in ids]
    array = np.array(ids)
    if array.dtype.kind == "i":
        return array.astype(np.int64)
    wrong = [number for number in ids if number % 1 or not -(2**63) <= number < 2**63]
    if wrong:
        raise ValueError(f"{what}: the id {wrong[0]} is not a whole number of 64 bits")
    return np.array([int(number) for number in ids], dtype=np.int64)


def is_text(ids: list) -> np.ndarray:
    """Which ids are text: bool [N]."""
    return np.array([isinstance(number, str) for number in ids], dtype=bool)


def numbers_or_missing(ids: list) -> list:
    """Replace text by the number it spells, or by None: for ids that nothing refers to."""
    return [
        (int(number) if _is_number(number) else None) if isinstance(number, str) else number
        for number in ids
    ]


def _is_number(text: str) -> bool:
    """Whether the text is the usual spelling of a number of 64 bits, so not 007."""
    return len(text) < 19 and text.removeprefix("-").isdecimal() and str(int(text)) == text
