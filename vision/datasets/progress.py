"""A progress bar for what reads a data set: on a terminal, in the first process of several."""

import os
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def show_progress(
    items: Iterable[Item], total: int | None = None, unit: str = " images"
) -> Iterable[Item]:
    """Iterate with a bar, which is removed at the end; without a terminal there is none.

    Args:
        items: what is read.
        total: how many there are; None: not known.
        unit: what they are, for the rate.
    """
    from tqdm import tqdm

    disable = None if os.environ.get("RANK", "0") == "0" else True
    return tqdm(items, desc="read", total=total, unit=unit, leave=False, disable=disable)
