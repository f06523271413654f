"""What the scripts share: a parser that takes older spellings, and exit codes for errors."""

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vision.files.printable import printable
from vision.standard_streams import ReaderGone, lasting_streams

_FLAG = re.compile(r"^--[^=]*")  # in `--batch_size=8` what stands before the value
MOST_LETTERS = 4000  # of an error's line
MOST_WORKERS = 1024  # processes or threads; a typing error would start them until the machine stops
Explain = Callable[[Exception], str | None]


class FamilyParser(argparse.ArgumentParser):
    """A parser that also takes the underscores of qfgaohao's pytorch-ssd and its forks.

    `--batch_size` is `--batch-size`. Mistakes are told in one line, with exit code 2.
    """

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, with hyphens for the underscores in the names of flags."""
        args = sys.argv[1:] if args is None else args
        with_hyphens = [_FLAG.sub(lambda match: match[0].replace("_", "-"), arg) for arg in args]
        return super().parse_known_args(with_hyphens, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def worker_count(text: str) -> int:
    """Read how many processes or threads work at once; the least is the script's to check."""
    count = int(text)
    if count > MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"at most {MOST_WORKERS} can be asked for")
    return count


def flag_of(name: str) -> str:
    """Return the flag of an argument's name."""
    return "--" + name.replace("_", "-")


def check_shares(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """End the program with exit code 2 where one of these arguments is given and not in 0..1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            parser.error(f"{flag_of(name)} must be in 0..1")


def image_size(text: str) -> tuple[int, int]:
    """Read `300` or `HEIGHTxWIDTH` as (height, width)."""
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a size nor HEIGHTxWIDTH")
    return (sides[0], sides[-1])


def run_script(
    work: Callable[[], int | None],
    *,
    explain: Explain | None = None,
    interrupted: str | None = None,
    warnings_only: bool = False,
) -> int:
    """Do a script's work, and turn what it raises into one line and an exit code.

    Args:
        work: returns the exit code, None for 0.
        explain: says in one line what a RuntimeError means; None keeps the traceback, as for a
            bug.
        interrupted: what to say after Ctrl-C.
        warnings_only: log no more than warnings, with their level.

    Returns:
        The exit code: 1 after an error that the user can do something about, 130 after Ctrl-C, 141
        when nobody reads the standard output that the work is done for.
    """
    with lasting_streams():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_OneLine(("%(levelname)s: " if warnings_only else "") + "%(message)s"))
        level = logging.WARNING if warnings_only else logging.INFO
        logging.basicConfig(level=level, handlers=[handler], force=True)
        try:
            code = work() or 0
            with contextlib.suppress(ReaderGone):  # the work is done
                sys.stdout.flush()
            return code
        except SystemExit as stop:  # by a signal, or by the main process
            return stop.code
        except KeyboardInterrupt:
            line, code = interrupted, 130
        except ReaderGone:
            return 141  # as a shell says of a program that SIGPIPE has ended
        except Exception as error:
            line, code = _line_of(error, explain), 1
            if line is None:
                raise
            line = f"error: {line}"
        if line:
            print(_shortened(printable(line)), file=sys.stderr)
        return code


def _line_of(error: Exception, explain: Explain | None) -> str | None:
    """Say in one line what a user can do something about; None for a bug."""
    if isinstance(error, (ValueError, OSError)):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is full" + (f": {error}" if str(error) else "")
    if isinstance(error, RecursionError):
        return "one of the files that are read is nested too deeply"
    if isinstance(error, OverflowError):
        return f"a number is too large to compute with ({error})"
    if isinstance(error, RuntimeError) and explain:
        return explain(error)
    return None


def _shortened(line: str) -> str:
    """Cut the middle out of a line that no one would read, such as with a name of a megabyte."""
    if len(line) <= MOST_LETTERS:
        return line
    left_out = len(line) - MOST_LETTERS
    return f"{line[: MOST_LETTERS // 2]} [{left_out:,} letters] {line[-(MOST_LETTERS // 2) :]}"


class _OneLine(logging.Formatter):
    """Escapes line breaks and control characters, which names in files may have.

    Only of the message: a traceback keeps its lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the message as one line, without what logging puts behind it."""
        return printable(super().formatMessage(record))
