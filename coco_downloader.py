#!/usr/bin/env python3
"""Download COCO 2017, unpack it and check every file; safe to interrupt and to run again.

    python coco_downloader.py --path coco-data --splits train,val,annotations
    python coco_downloader.py --path coco-data --splits val,annotations --connections 8
    python coco_downloader.py --path coco-data --base-url http://mirror.example/coco
    python coco_downloader.py --path coco-data --base-url file:///mnt/coco-zips

Exit status: 0 everything is installed, 1 something failed (what was fetched stays: run the same
command again), 2 wrong usage, 130 interrupted.
"""

from vision.installed import require

require("requests", "tqdm", "urllib3")

import argparse
import errno
import logging
import math
import queue
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vision.command_line import FamilyParser, run_script, worker_count
from vision.download.coco_archives import (
    ARCHIVES,
    Archive,
    archives_for,
    read_checksums,
)
from vision.download.coco_install import as_on_mirror, install, lock_folder, on_official_server
from vision.download.disk_space import check_free_space
from vision.download.download import Stopped
from vision.files.printable import printable

logger = logging.getLogger("coco_downloader")
SECONDS_BETWEEN_LINES = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Download what is asked for; return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    work = partial(_download, _parse(argv), argv)
    return run_script(work, interrupted=f"interrupted; to continue: {_command(argv)}")


def _download(args: argparse.Namespace, argv: Sequence[str]) -> int:
    root = Path(args.path)
    root.mkdir(parents=True, exist_ok=True)
    digests = read_checksums(Path(args.checksums)) if args.checksums else {}
    with lock_folder(root):
        archives = archives_for(args.splits)
        if args.base_url is None:
            args.base_url, archives = on_official_server(archives, root, timeout=args.timeout)
        else:
            settings = {"base_url": args.base_url, "timeout": args.timeout}
            archives = [as_on_mirror(archive, root, **settings) for archive in archives]
        for archive in archives if args.checksums else ():
            if archive.name not in digests:
                logger.warning("%s: no digest in %s", archive.name, args.checksums)
        if not check_free_space(archives, root, keep_zips=args.keep_zips):
            logger.warning("%s: there is room for one archive at a time only", root)
            args.workers = 1
        with logging_redirect_tqdm():
            failures = _install_all(archives, root, digests, args)
    for failure in failures:
        print(f"error: {printable(failure)}", file=sys.stderr)
    if failures:
        print(f"to continue: {_command(argv)}", file=sys.stderr)
    return 1 if failures else 0


def build_parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = FamilyParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--path", default="coco-data", help="folder for everything (default %(default)s)")
    add(
        "--splits",
        default="train,val,test,annotations",
        help="parts to install, from %(default)s (default: all). Training needs "
        "train,val,annotations; test has images and a list of them, but no annotations",
    )
    add(
        "--base-url",
        metavar="URL",
        help="server or mirror with zips/train2017.zip and so on: http://, https:// or file:///; "
        "zips of other sizes and digests than COCO's are taken from it, with a warning "
        "(default: COCO's own server, by https where it answers)",
    )
    add(
        "--workers",
        type=worker_count,
        default=4,
        help="archives at the same time (default %(default)s)",
    )
    add(
        "--connections",
        type=worker_count,
        default=1,
        help="connections for each archive, for servers that limit the speed of one connection "
        "(default %(default)s)",
    )
    add(
        "--checksums",
        metavar="FILE",
        help="SHA-256 digests that the zips must have, from sha256sum; default: COCO's own, which "
        "it knows",
    )
    add(
        "--timeout",
        type=float,
        default=60.0,
        help="seconds without data after which a connection counts as stalled "
        "(default %(default)s)",
    )
    add(
        "--retries",
        type=int,
        default=20,
        help="failed tries in a row before giving up, with growing pauses; %(default)s last for "
        "half an hour without network (default %(default)s)",
    )
    add("--keep-zips", action="store_true", help="keep the archives after unpacking")
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(argv)
    args.splits = [split.strip() for split in args.splits.split(",") if split.strip()]
    args.base_url = args.base_url and args.base_url.rstrip("/")
    unknown = set(args.splits) - set(ARCHIVES)
    if unknown or not args.splits:
        parser.error(f"--splits: choose from {','.join(ARCHIVES)}, not {','.join(unknown)!r}")
    for name in ("workers", "connections", "timeout"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name} must be greater than 0")
    if args.retries < 0:
        parser.error("--retries must be 0 or more")
    return args


def _install_all(
    archives: Sequence[Archive], root: Path, digests: dict[str, str], args: argparse.Namespace
) -> list[str]:
    """Install all archives, several at a time; return one line for each that failed."""
    stop = threading.Event()
    waiting: queue.SimpleQueue[tuple[int, Archive]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    outcomes = {archive.name: "ended without a reason" for archive in archives}
    for item in enumerate(archives):
        waiting.put(item)

    def work() -> None:
        """Install waiting archives one after the other, until none is left or all are to stop."""
        try:
            while not stop.is_set():
                position, archive = waiting.get_nowait()
                with _Progress(archive.name, archive.num_bytes, position) as progress:
                    outcomes[archive.name] = _install_one(
                        archive, root, digests.get(archive.name), args, progress, stop
                    )
        except (queue.Empty, Stopped):
            pass
        finally:
            ended.put(None)

    try:
        for _ in range(args.workers):
            threading.Thread(target=work, daemon=True).start()
        _wait_for(ended, args.workers, seconds=math.inf)
    except KeyboardInterrupt:
        stop.set()  # each thread puts its state on disk
        _wait_for(ended, args.workers, seconds=10)
        raise
    return [f"{name}: {outcome}" for name, outcome in outcomes.items() if outcome]


def _wait_for(ended: queue.SimpleQueue, count: int, *, seconds: float) -> None:
    # Not Thread.join: after Ctrl-C has interrupted it, it takes a running thread for ended (3.11).
    end = time.monotonic() + seconds
    while ended.qsize() < count and time.monotonic() < end:
        time.sleep(0.05)


def _install_one(
    archive: Archive,
    root: Path,
    sha256: str | None,
    args: argparse.Namespace,
    progress: "_Progress",
    stop: threading.Event,
) -> str:
    """Install one archive; return the reason if it failed, else an empty string."""
    try:
        done = install(
            archive,
            root,
            base_url=args.base_url,
            sha256=sha256,
            keep_zip=args.keep_zips,
            connections=args.connections,
            timeout=args.timeout,
            retries=args.retries,
            progress=progress,
            stop=stop,
        )
    except (ValueError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            return f"the disk of {root} is full: free some space; what was fetched stays"
        return str(error)
    tqdm.write(done, file=sys.stdout)
    return ""


class _Progress:
    """Progress of an archive: a bar on a terminal, otherwise a log line every minute."""

    def __init__(self, name: str, num_bytes: int, position: int) -> None:
        self._name = name
        self._stage = "fetch"
        self._said_at = time.monotonic()
        self._bar = tqdm(
            total=num_bytes,
            desc=f"{name} fetch",
            unit="B",
            unit_scale=True,
            position=position,
            leave=False,
            disable=None,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show the bytes that are done; a new stage starts the bar again."""
        if stage != self._stage:
            self._stage = stage
            self._bar.set_description(f"{self._name} {stage}", refresh=False)
            self._bar.reset(total)
        self._bar.total = total
        if self._bar.n == 0:  # bytes of an earlier run must not count for the speed
            self._bar.initial = self._bar.n = self._bar.last_print_n = done
        self._bar.update(done - self._bar.n)
        if self._bar.disable and time.monotonic() - self._said_at > SECONDS_BETWEEN_LINES:
            self._said_at = time.monotonic()
            share = f"{100 * done / total:.1f} %" if total else "?"
            logger.info("%s: %s %s, %.3f GB", self._name, stage, share, done / 1e9)


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", Path(__file__).name, *argv])


if __name__ == "__main__":
    raise SystemExit(main())
