"""Class names that can be told apart and written one a line."""

from collections import Counter
from collections.abc import Sequence


def tidy_name(name: object, category_id: int) -> str:
    """A class name on one line, without blanks at its ends; `class 7` for one that is empty."""
    words = "" if name is None else str(name)
    return " ".join(words.split()) or f"class {category_id}"


def unique_names(names: Sequence[str], category_ids: Sequence[int]) -> list[str]:
    """Add the category id to names that stand there more than once: cat (id 3), cat (id 8).

    labels.txt and metrics.json tell classes by their names.

    Args:
        names: of the classes.
        category_ids: different numbers.
    """
    names = list(names)
    while len(set(names)) < len(names):  # a name may also end so from the beginning
        counts = Counter(names)
        names = [
            f"{name} (id {number})" if counts[name] > 1 else name
            for name, number in zip(names, category_ids, strict=True)
        ]
    return names
