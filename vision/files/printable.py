"""Making untrusted text safe for terminals, logs and lists with one name a line."""

import re

# Control characters, breaks of lines, changes of the writing direction, invisible marks, and halves
# of characters. The joiners of Persian, of Indian scripts and of emoji are let through.
_HIDDEN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b\u2060\ufeff\ud800-\udfff"
_NOT_PRINTABLE = re.compile(f"[{_HIDDEN}]")
_LAYOUT = {"\n", "\r", "\t", "\x1b[A"}  # the last moves up a line, for several progress bars
_NOT_LAYOUT = re.compile(f"\x1b\\[A|[{_HIDDEN}]")


def printable(text: str) -> str:
    """Escape line breaks, terminal commands and invisible characters; names may have them."""
    return _NOT_PRINTABLE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Escape the same, but for line breaks, tabs and what progress bars need."""
    return _NOT_LAYOUT.sub(lambda found: found[0] if found[0] in _LAYOUT else _escape(found), text)


def _escape(found: re.Match) -> str:
    return repr(found[0])[1:-1]
