"""Unpacking zip archives safely: only inside the folder, no half-written files, resumable."""

import errno
import os
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vision.download.download import Stopped
from vision.files.guarded import is_below, regular_only

CHUNK_BYTES = 1 << 20
# Largest ratio of unpacked to packed size. COCO's JSON has 4, text at most 30, a zip bomb 1000.
MAX_RATIO = 100
SMALL_BYTES = 1 << 20
UNPACKING_SUFFIX = ".unpacking"


class DamagedArchive(ValueError):
    """The archive is incomplete or corrupt; another copy may be right."""


class UnsafeArchive(ValueError):
    """The archive holds something that must not be unpacked; another copy would hold it too."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path under the folder, its unpacked size in bytes, its CRC-32."""

    name: str
    size: int
    crc: int


def read_members(zip_path: Path, *, max_content: int | None = None) -> list[Member]:
    """Return the files in an archive, after every check that needs no unpacking.

    Args:
        max_content: largest total size of its files in bytes; None: MAX_RATIO times the archive's.

    Raises:
        DamagedArchive: it is not a complete zip file.
        UnsafeArchive: an absolute name, `..`, a drive letter, a link, the same name twice (also in
            another case), a zip bomb, encryption; names the member.
    """
    with _open_zip(zip_path) as archive:
        infos = archive.infolist()
    if not infos:
        raise DamagedArchive(f"{zip_path}: no files in it")
    _check_names(zip_path, infos)
    _check_sizes(zip_path, infos, max_content)
    return [Member(i.filename, i.file_size, i.CRC) for i in infos if not i.is_dir()]


def extract(
    zip_path: Path,
    root: Path,
    *,
    max_content: int | None = None,
    other_places: Callable[[Path], list[Path]] = lambda target: [],
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> list[Member]:
    """Unpack the members that are not yet under `root`; then each has the right size and CRC.

    Each file is written under a temporary name, checked and renamed. A file that is there already
    with the right size and CRC is not written again, so an interrupted run can be continued.

    Args:
        max_content: as for `read_members`.
        other_places: gives the other paths where a member may be, if another tool moved it.
        progress: called with bytes done and bytes in all.
        stop: when set, `Stopped` is raised soon after.

    Returns:
        The files of the archive.

    Raises:
        DamagedArchive, UnsafeArchive: as `read_members`; for a wrong CRC, names the member.
        OSError: the disk is full or not writable.
        Stopped: `stop` was set.
    """
    members = read_members(zip_path, max_content=max_content)
    total, done = sum(member.size for member in members), 0
    made: set[Path] = set()
    with _open_zip(zip_path) as archive:
        for member in members:
            if stop and stop.is_set():
                raise Stopped
            target = root / member.name
            if not any(_holds(path, member) for path in [target, *other_places(target)]):
                if target.parent not in made:
                    if not is_below(root, member.name):
                        reason = "a link on the way to it leads out of the folder; remove it"
                        raise OSError(errno.ELOOP, reason, str(target))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                _extract_member(archive, member, target)
            done += member.size
            if progress:
                progress(done, total)
    if hasattr(os, "sync"):
        os.sync()  # once for all: an fsync for each of 118,000 files would take twenty minutes
    return members


def check_contents(zip_path: Path) -> None:
    """Read every member without writing anything.

    Raises:
        DamagedArchive: a CRC is wrong, or the structure is broken.
    """
    with _open_zip(zip_path) as archive:
        for info in archive.infolist():
            for _ in _contents(archive, info.filename, info.file_size):
                pass


def _contents(archive: zipfile.ZipFile, name: str, size: int) -> Iterator[bytes]:
    """Yield the bytes of a member in chunks; a wrong CRC or length raises at the end."""
    num_read = 0
    try:
        with archive.open(name) as source:
            while data := source.read(CHUNK_BYTES):
                num_read += len(data)
                yield data
        if num_read != size:
            raise EOFError(f"{num_read} bytes, {size} announced")
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise DamagedArchive(f"{archive.filename}: {name}: {error}") from error


def _extract_member(archive: zipfile.ZipFile, member: Member, target: Path) -> None:
    temporary = target.with_name(target.name + UNPACKING_SUFFIX)
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as sink:
            for data in _contents(archive, member.name, member.size):
                sink.write(data)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _holds(path: Path, member: Member) -> bool:
    """Whether the file at `path` has the member's size and CRC."""
    try:
        if path.stat().st_size != member.size:
            return False
        with open(path, "rb", opener=regular_only) as file:
            crc = 0
            while data := file.read(CHUNK_BYTES):
                crc = zlib.crc32(data, crc)
    except FileNotFoundError:
        return False
    return crc == member.crc


@contextmanager
def _open_zip(zip_path: Path) -> Iterator[zipfile.ZipFile]:
    with open(zip_path, "rb", opener=regular_only) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, struct.error, UnicodeDecodeError, NotImplementedError) as error:
            raise DamagedArchive(f"{zip_path}: {error}") from error
        except (OSError, ValueError) as error:
            # errno None or EINVAL: the zip's directory points before the start of the file
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise DamagedArchive(f"{zip_path}: {error}") from error
        with archive:
            yield archive


def _check_names(zip_path: Path, infos: list[zipfile.ZipInfo]) -> None:
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for info in infos:
        if reason := _name_fault(info):
            raise UnsafeArchive(f"{zip_path}: {info.orig_filename!r}: {reason}")
        parts = info.filename.removesuffix("/").split("/")
        paths = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        for folder in paths if info.is_dir() else paths[:-1]:
            if folders.setdefault(_folded(folder), folder) != folder:
                raise UnsafeArchive(f"{zip_path}: {folder!r} is there in two spellings")
        if not info.is_dir():
            key = _folded(paths[-1])
            if key in files:
                raise UnsafeArchive(f"{zip_path}: {info.filename!r} is there twice")
            files[key] = paths[-1]
    for key in files.keys() & folders.keys():
        raise UnsafeArchive(f"{zip_path}: {files[key]!r} is a file and a folder")


def _folded(path: str) -> str:
    """Return the same text for names that some file systems treat as one (case, accents)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _name_fault(info: zipfile.ZipInfo) -> str | None:
    name = info.orig_filename
    mode = info.external_attr >> 16
    if name.startswith(("/", "\\")):
        return "an absolute name"
    if ":" in name:
        return "a drive letter or a colon in the name"
    if "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "a backslash or control character in the name"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "'..', '.' or nothing as a part of the name"
    if any(part != part.rstrip(". ") for part in name.removesuffix("/").split("/")):
        return "a name that ends in a dot or space, which some systems drop"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a special file"
    if stat.S_ISDIR(mode) != info.is_dir() and stat.S_IFMT(mode):
        return "a folder named as a file, or the reverse"
    if info.flag_bits & 0x61:
        return "encrypted or patched"
    if name.endswith(UNPACKING_SUFFIX):
        return "a name kept for files that are being written"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}, not deflate"
    return None


def _check_sizes(zip_path: Path, infos: list[zipfile.ZipInfo], max_content: int | None) -> None:
    for info in infos:
        if info.header_offset < 0:
            raise DamagedArchive(f"{zip_path}: {info.filename!r} begins before the file does")
        if info.file_size > max(SMALL_BYTES, MAX_RATIO * info.compress_size):
            raise UnsafeArchive(
                f"{zip_path}: {info.filename!r} grows from {info.compress_size} to "
                f"{info.file_size} bytes: a bomb"
            )
    # Overlapping members are how a small zip can unpack to petabytes.
    by_offset = sorted(infos, key=lambda info: info.header_offset)
    for info, after in pairwise(by_offset):
        if info.header_offset + 30 + info.compress_size > after.header_offset:
            raise UnsafeArchive(f"{zip_path}: {after.filename!r} overlaps {info.filename!r}")
    total = sum(info.file_size for info in infos)
    limit = max_content or max(SMALL_BYTES, MAX_RATIO * zip_path.stat().st_size)
    if total > limit:
        raise UnsafeArchive(f"{zip_path}: its files have {total} bytes, {limit} are expected")
