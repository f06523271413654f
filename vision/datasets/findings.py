"""What a data tool found wrong: the first of a kind are shown, all are counted and reported."""

import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)


def no_progress(items: Iterable, total: int) -> Iterable:
    """Return the items: the default where a function takes tqdm to show its progress."""
    return items


class Findings:
    """Collects findings by kind.

    Args:
        num_shown: how many of a kind are logged as they are found; the rest only counted.
    """

    def __init__(self, *, num_shown: int = 20) -> None:
        self._num_shown = num_shown
        self._by_kind: dict[str, list[dict[str, object]]] = {}

    def add(self, kind: str, file: str, message: str, *, line: int | None = None) -> None:
        """Record that `file` (and its 1-based `line`) has a finding of this kind."""
        items = self._by_kind.setdefault(kind, [])
        place = {"file": file} if line is None else {"file": file, "line": line}
        items.append({**place, "message": message})
        if len(items) <= self._num_shown:
            logger.warning("%s: %s", file if line is None else f"{file}:{line}", message)
        elif len(items) == self._num_shown + 1:
            logger.warning("more findings of the kind '%s' are counted, not shown", kind)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind were found, in the order in which the kinds appeared."""
        return {kind: len(items) for kind, items in self._by_kind.items()}

    def as_report(self) -> dict[str, dict[str, object]]:
        """Every finding, for a JSON report: {kind: {"count": N, "items": [...]}}."""
        return {
            kind: {"count": len(items), "items": items} for kind, items in self._by_kind.items()
        }
