"""COCO's zip files: which there are, and bringing each one whole and checked onto the disk."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from vision.datasets.atomic_file import write_atomically
from vision.datasets.download import fetch
from vision.datasets.http_range import remote_length
from vision.datasets.unzip import DamagedArchive, Member, check_contents, extract

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes out of one folder
    fcntl = None

logger = logging.getLogger(__name__)

OFFICIAL_URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Archive:
    """One zip file on a server.

    Attributes:
        path: under the base URL.
        num_bytes: of the zip. content_bytes: of the files in it, for the free space.
        is_exact: whether the zip must have `num_bytes` to be the right one.
    """

    path: str
    num_bytes: int
    content_bytes: int
    is_exact: bool = True

    @property
    def name(self) -> str:
        """`train2017.zip`"""
        return self.path.rsplit("/", 1)[-1]


# JPEGs do not shrink: their zips are as large as they are. Of image_info_test2017.zip public
# sources give two sizes (1,133,069 and 1,144,034 bytes).
ARCHIVES = {
    "train": (Archive("zips/train2017.zip", 19_336_861_798, 19_400_000_000),),
    "val": (Archive("zips/val2017.zip", 815_585_330, 820_000_000),),
    "test": (
        Archive("zips/test2017.zip", 6_646_970_404, 6_700_000_000),
        Archive("annotations/image_info_test2017.zip", 1_144_034, 12_000_000, is_exact=False),
    ),
    "annotations": (Archive("annotations/annotations_trainval2017.zip", 252_907_541, 834_416_290),),
}


def archives_for(splits: Iterable[str]) -> list[Archive]:
    """The archives of some splits, each once, largest first.

    Raises:
        ValueError: no such split.
    """
    found: set[Archive] = set()
    for split in splits:
        if split not in ARCHIVES:
            raise ValueError(f"no split {split!r}: choose from {','.join(ARCHIVES)}")
        found.update(ARCHIVES[split])
    return sorted(found, key=lambda archive: (-archive.num_bytes, archive.name))


def as_on_mirror(archive: Archive, root: Path, *, base_url: str, timeout: float) -> Archive:
    """The archive with the mirror's length, when something of it is not yet under `root`."""
    if absent_members(archive, root) == []:
        return archive
    length = remote_length(f"{base_url}/{archive.path}", timeout=timeout) or archive.num_bytes
    content = round(archive.content_bytes * length / archive.num_bytes)
    return replace(archive, num_bytes=length, content_bytes=content, is_exact=False)


@contextmanager
def only_one_in(root: Path) -> Iterator[None]:
    """Keep another process from the same folder: two on one `NAME.part` would spoil it.

    Raises:
        ValueError: another process is there. The lock of a killed process is gone.
    """
    with open(root / ".coco_downloader.lock", "w") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{root}: another coco_downloader.py is at work there") from None
            except OSError as error:
                logger.warning("%s: no lock on this file system (%s)", root, error)
        yield


def read_checksums(path: Path) -> dict[str, str]:
    """SHA-256 digests by file name, from lines as `sha256sum` writes them.

    Raises:
        ValueError: a line is something else, naming it.
    """
    digests = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digest, _, name = line.strip().partition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef") or not name.strip():
            raise ValueError(f"{path}:{number}: not a line of sha256sum ('<64 digits>  <name>')")
        digests[name.strip().lstrip("*").rsplit("/", 1)[-1]] = digest.lower()
    return digests


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

    A zip that turns out damaged is fetched once more. `NAME.done.json` lists what was unpacked,
    so that the next call knows without the zip that nothing is missing.

    Args:
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
    zip_path = root / archive.name
    for is_last_try in (False, True):
        was_here = zip_path.exists()
        if not was_here:
            fetch(
                f"{base_url}/{archive.path}",
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
            if sha256:
                _check_digest(zip_path, sha256)
            members = extract(
                zip_path,
                root,
                max_content=2 * archive.content_bytes if archive.is_exact else None,
                elsewhere=_where_later_tools_move,
                progress=lambda done, total: progress("unpack", done, total),
                stop=stop,
            )
            break
        except DamagedArchive as error:
            _set_aside(zip_path, was_here)
            if is_last_try:
                raise DamagedArchive(f"{error}; twice, so try another --base-url") from error
            logger.warning("%s; fetching it once more", error)
    record = {"url": f"{base_url}/{archive.path}", "members": [astuple(m) for m in members]}
    write_atomically(_record_path(archive, root), json.dumps(record).encode())
    if not keep_zip:
        zip_path.unlink()
    return f"{archive.name}: {len(members)} files, all checked"


def absent_members(archive: Archive, root: Path) -> list[Member] | None:
    """Files of an unpacked archive that are missing or of another size; None: never unpacked."""
    try:
        record = json.loads(_record_path(archive, root).read_bytes())
        members = [Member(*fields) for fields in record["members"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return [member for member in members if not is_here(root / member.name, member.size)]


def is_here(target: Path, size: int) -> bool:
    """Whether a file, or what a later tool moved out of its place, has the size."""
    for path in [target, *_where_later_tools_move(target)]:
        try:
            if path.stat().st_size == size:
                return True
        except OSError:
            continue
    return False


def _where_later_tools_move(target: Path) -> list[Path]:
    if target.suffix == ".json":  # fix_coco_annotations.py
        return list(target.parent.glob(f"{target.stem}.original*.json"))
    return [target.parent.with_name(f"{target.parent.name}_invalid") / target.name]


def _record_path(archive: Archive, root: Path) -> Path:
    return root / f"{archive.name}.done.json"


def _check_digest(zip_path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with open(zip_path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    if digest.hexdigest() != sha256:
        check_contents(zip_path)  # damaged: another copy may be right
        raise ValueError(
            f"{zip_path}: a whole zip, but its SHA-256 is {digest.hexdigest()}, not {sha256}: "
            "correct --checksums, or delete the zip to fetch it again"
        )


def _set_aside(zip_path: Path, was_here: bool) -> None:
    """Make room for another copy; a file that this call did not fetch is not ours to delete."""
    if was_here:
        zip_path.replace(zip_path.with_name(zip_path.name + ".damaged"))
    else:
        zip_path.unlink()
