"""Reading untrusted JSON, and naming the file whose content has another form."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vision.files.guarded import read_regular
from vision.files.stand_ins import refuse_stand_in

MOST_BYTES = 1 << 26  # 64 MB; a run's config.json has some kB


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Name the file whose content has another form than the code in the `with` block expects.

    Raises:
        ValueError: instead of what a missing key, another type or endless nesting raises.
    """
    try:
        yield
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be read") from None
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not of the form that is read here ({reason})") from error


def parse_json(text: bytes | str, *, where: str | Path) -> object:
    """Parse JSON.

    Raises:
        ValueError: it is none, or nested too deeply; names `where`.
    """
    with reading(where):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error})") from None


def read_json(path: str | Path) -> object:
    """Read a JSON file.

    Raises:
        ValueError: its content is no JSON, nested too deeply, or what a download left instead.
        OSError: it cannot be read, or has more than MOST_BYTES.
    """
    content = read_regular(path, most_bytes=MOST_BYTES)
    refuse_stand_in(content[:512], path)
    return parse_json(content, where=path)


def read_json_lines(path: str | Path) -> list:
    """Read a file with JSON in each line that is not empty.

    Raises:
        ValueError: a line holds none; names it.
        OSError: it cannot be read, or has more than MOST_BYTES.
    """
    lines = read_regular(path, most_bytes=MOST_BYTES).splitlines()
    return [
        parse_json(line, where=f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
