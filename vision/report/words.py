"""Numbers as the report and the summary write them."""


def percent(share: float) -> str:
    """Write a share of 1; the sign stays on the line of its number."""
    return f"{100 * share:.0f}\u00a0%"


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """Write how many there are of something."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def interval_text(ends: tuple[float, float] | None) -> str:
    """Write an interval behind its number, or nothing where there is none."""
    return f" (95 %: {ends[0]:.3f} to {ends[1]:.3f})" if ends else ""


def duration(seconds: float) -> str:
    """Write seconds in the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
