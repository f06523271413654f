"""What a test runs in several processes: each reads a data set of its own, and all compare them."""

from vision.engine import distributed
from vision.training.data import check_same_for_all, open_sources


def main(argv: list[str]) -> int:
    """Read the data set of this process's rank; the main process prints what differs."""
    with distributed.process_group():
        data = open_sources([argv[distributed.rank()]])
        try:
            check_same_for_all([data.train, data.val])
        except ValueError as error:
            print(error)
    return 0
