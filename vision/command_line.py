"""The parser of the scripts' flags: the family's spellings, and mistakes told in one line."""

import argparse
import sys
from typing import NoReturn


class FamilyParser(argparse.ArgumentParser):
    """A parser that also takes the family's underscores: `--batch_size` for `--batch-size`."""

    def parse_known_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args([_with_hyphens(arg) for arg in args], namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line, or raise where the parser is told not to exit."""
        if not self.exit_on_error:
            raise argparse.ArgumentError(None, message)
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def flag_of(name: str) -> str:
    """Return the flag of an argument's name."""
    return "--" + name.replace("_", "-")


def _with_hyphens(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    return name.replace("_", "-") + equals + value
