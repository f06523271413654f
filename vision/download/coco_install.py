"""Installing an archive of COCO: download, unpack, check every file."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path

from vision.download.coco_archives import OFFICIAL_URL, PLAIN_URL, Archive
from vision.download.download import fetch
from vision.download.http_range import remote_length
from vision.download.unzip import DamagedArchive, Member, UnsafeArchive, check_contents, extract
from vision.files.atomic_file import write_atomically
from vision.files.guarded import own_only, regular_only
from vision.files.structured_text import read_json

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not prevented
    fcntl = None

logger = logging.getLogger(__name__)


@contextmanager
def lock_folder(root: Path) -> Iterator[None]:
    """Lock the folder: two processes that write the same `NAME.part` would damage it.

    The system releases the lock of a process that ends or is killed.

    Raises:
        ValueError: another process has the lock.
    """
    with open(root / ".coco_downloader.lock", "w", opener=own_only) as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{root}: another coco_downloader.py is at work there") from None
            except OSError as error:
                logger.warning("%s: no lock on this file system (%s)", root, error)
        yield


def on_official_server(
    archives: Sequence[Archive], root: Path, *, timeout: float
) -> tuple[str, list[Archive]]:
    """Return COCO's address, by https if it answers there, else by http, and the archives.

    What comes by http must be exactly COCO's: then it is as safe, as its digests are known.
    """
    for archive in archives:
        if archive.is_exact and absent_members(archive, root) != []:
            by_https, by_http = (
                remote_length(f"{url}/{archive.path}", timeout=timeout)
                for url in (OFFICIAL_URL, PLAIN_URL)
            )
            if by_https is None and by_http is not None:
                logger.warning("%s: no answer there; fetching from %s", OFFICIAL_URL, PLAIN_URL)
                return PLAIN_URL, [replace(archive, is_exact=True) for archive in archives]
            break
    return OFFICIAL_URL, list(archives)


def as_on_mirror(archive: Archive, root: Path, *, base_url: str, timeout: float) -> Archive:
    """Return the archive with the size it has on a mirror, if it is not yet complete in `root`."""
    if absent_members(archive, root) == []:
        return archive
    length = remote_length(f"{base_url}/{archive.path}", timeout=timeout) or archive.num_bytes
    content = round(archive.content_bytes * length / archive.num_bytes)
    return replace(archive, num_bytes=length, content_bytes=content, is_exact=False)


def install(
    archive: Archive,
    root: Path,
    *,
    base_url: str = OFFICIAL_URL,
    sha256: str | None = None,
    keep_zip: bool = False,
    connections: int = 1,
    timeout: float = 60.0,
    retries: int = 20,
    first_pause: float = 1.0,
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
    stop: threading.Event | None = None,
) -> str:
    """Fetch an archive, unpack it under `root`, check every file, remove the zip.

    A damaged zip is fetched once more. `NAME.done.json` lists the unpacked files, so that the next
    call can tell without the zip whether any is missing.

    Args:
        base_url, connections, timeout, retries, first_pause, stop: as for `fetch`.
        sha256: digest that the zip must have; None: COCO's own, where it is known, and another one
            of an archive that is not exact is a warning.
        keep_zip: leave the zip in `root`.
        progress: called with "fetch" or "unpack", bytes done, bytes in all.

    Returns:
        One line that says what was done.

    Raises:
        DamagedArchive, UnsafeArchive, ValueError, DownloadError, OSError, Stopped.
    """
    absent = absent_members(archive, root)
    if absent == []:
        return f"{archive.name}: complete already"
    if absent:
        text = "%s: %d of its files are gone or changed, for example %s"
        logger.warning(text, archive.name, len(absent), root / absent[0].name)
    zip_path, url = root / archive.name, f"{base_url}/{archive.path}"
    for is_last_try in (False, True):
        was_here = zip_path.exists()
        if not was_here:
            fetch(
                url,
                zip_path,
                connections=connections,
                timeout=timeout,
                retries=retries,
                first_pause=first_pause,
                expected_length=archive.num_bytes if archive.is_exact else None,
                progress=lambda done, total: progress("fetch", done, total),
                stop=stop,
            )
        try:
            members = _unpack(archive, root, sha256=sha256, progress=progress, stop=stop)
            break
        except DamagedArchive as error:
            _set_aside(zip_path, was_here)
            if is_last_try:
                raise DamagedArchive(f"{error}; twice, so try another --base-url") from error
            logger.warning("%s; fetching it once more", error)
        except UnsafeArchive as error:
            raise UnsafeArchive(f"{error}; delete it and try another --base-url") from error
    _record(archive, root, url, members)
    if not keep_zip:
        zip_path.unlink()
    return f"{archive.name}: {len(members)} files, all checked"


def _unpack(
    archive: Archive,
    root: Path,
    *,
    sha256: str | None,
    progress: Callable[[str, int, int | None], None],
    stop: threading.Event | None,
) -> list[Member]:
    zip_path = root / archive.name
    if sha256 or archive.sha256:
        _check_digest(zip_path, archive, sha256)
    return extract(
        zip_path,
        root,
        max_content=2 * archive.content_bytes if archive.is_exact else None,
        other_places=_moved_by_other_tools,
        progress=lambda done, total: progress("unpack", done, total),
        stop=stop,
    )


def _record(archive: Archive, root: Path, url: str, members: list[Member]) -> None:
    """Write `NAME.done.json`, and check once more that every file is there."""
    record = {"url": url, "members": [astuple(member) for member in members]}
    write_atomically(_record_path(archive, root), json.dumps(record).encode())
    if absent := absent_members(archive, root):
        raise OSError(
            f"{root / absent[0].name}: gone or cut short since it was unpacked, as are "
            f"{len(absent) - 1} more files; {archive.name} is kept. Does another program write in "
            f"{root}?"
        )


def absent_members(archive: Archive, root: Path) -> list[Member] | None:
    """Return the files of an unpacked archive that are missing or have another size.

    None: the archive was never unpacked here.
    """
    try:
        record = read_json(_record_path(archive, root))
        members = [Member(*fields) for fields in record["members"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return [member for member in members if not is_present(root / member.name, member.size)]


def is_present(target: Path, size: int) -> bool:
    """Whether a file of this size is at `target`, or where one of our other tools moved it."""
    for path in [target, *_moved_by_other_tools(target)]:
        try:
            if path.stat().st_size == size:
                return True
        except OSError:
            continue
    return False


def _moved_by_other_tools(target: Path) -> list[Path]:
    """Where fix_coco_annotations.py and validate_image_files.py move a file of an archive."""
    if target.suffix == ".json":
        return list(target.parent.glob(f"{target.stem}.original*.json"))
    return [target.parent.with_name(f"{target.parent.name}_invalid") / target.name]


def _record_path(archive: Archive, root: Path) -> Path:
    return root / f"{archive.name}.done.json"


def _check_digest(zip_path: Path, archive: Archive, sha256: str | None) -> None:
    digest = hashlib.sha256()
    with open(zip_path, "rb", opener=regular_only) as file:
        while data := file.read(1 << 20):
            digest.update(data)
    found, expected = digest.hexdigest(), sha256 or archive.sha256
    if found == expected:
        return
    if not (sha256 or archive.is_exact):
        text = "%s: not COCO's own zip: its SHA-256 is %s, not %s; --checksums FILE checks yours"
        logger.warning(text, zip_path, found, expected)
        return
    check_contents(zip_path)  # raises DamagedArchive: then it is fetched again
    fix = "correct --checksums, or delete the zip to fetch it again"
    if not sha256:
        fix = "delete it to fetch it again, or say with --base-url that it is of another server"
    raise ValueError(f"{zip_path}: a whole zip, but its SHA-256 is {found}, not {expected}: {fix}")


def _set_aside(zip_path: Path, was_here: bool) -> None:
    """Move a damaged zip out of the way; one that this call fetched itself is deleted."""
    if was_here:
        zip_path.replace(zip_path.with_name(zip_path.name + ".damaged"))
    else:
        zip_path.unlink()
