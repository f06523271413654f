"""One line that says what to do, instead of a traceback, where a script's packages are missing."""

import sys
from importlib.util import find_spec
from pathlib import Path


def require(*modules: str) -> None:
    """Stop the script with exit code 1 where this Python lacks one of `modules`.

    Each script calls it before its other imports. It looks for the modules and imports none, so
    it costs a millisecond.

    Args:
        modules: top-level names as they are imported, such as `cv2`.

    Raises:
        SystemExit: with the line to print; names the Python and all that it lacks.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        root = Path(__file__).resolve().parent.parent
        raise SystemExit(
            f"error: {sys.executable} lacks {', '.join(missing)}: activate the virtual environment "
            f"that has them, or make one: python3 -m venv .venv && . .venv/bin/activate && "
            f"pip install -e {root}"
        )
