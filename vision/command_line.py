"""What the scripts share: a parser that takes older spellings, and exit codes for errors."""

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

_FLAG = re.compile(r"^--[^=]*")  # in `--batch_size=8` what stands before the value
Explain = Callable[[Exception], str | None]


class FamilyParser(argparse.ArgumentParser):
    """A parser that also takes the underscores of qfgaohao's pytorch-ssd and its forks.

    `--batch_size` is `--batch-size`. Mistakes are told in one line, with exit code 2.
    """

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else args
        with_hyphens = [_FLAG.sub(lambda match: match[0].replace("_", "-"), arg) for arg in args]
        return super().parse_known_args(with_hyphens, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def flag_of(name: str) -> str:
    """Return the flag of an argument's name."""
    return "--" + name.replace("_", "-")


def run_script(work: Callable[[], int | None], *, explain: Explain | None = None) -> int:
    """Do a script's work, and turn what it raises into one line and an exit code.

    Args:
        work: returns the exit code, None for 0.
        explain: says in one line what a RuntimeError means; None keeps the traceback, as for a
            fault of the program.

    Returns:
        The exit code: 1 after an error that the user can do something about, 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        return work() or 0
    except SystemExit as stop:  # by a signal, or by the main process
        return stop.code
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        line = str(error)
    except RuntimeError as error:
        line = explain(error) if explain else None
        if line is None:
            raise
    with contextlib.suppress(OSError, ValueError):  # a closed terminal
        print(f"error: {printable(line)}", file=sys.stderr)
    return 1


def printable(text: str) -> str:
    """Escape line breaks, terminal commands and invisible letters: names in files may have them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
