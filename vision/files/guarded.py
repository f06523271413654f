"""Opening untrusted files, and joining untrusted names to a folder.

A data set or a run folder from elsewhere may hold a pipe under an image's name, which would be
waited for without end, a link under the name of a file that is written, or names that lead out of
the folder.
"""

import errno
import os
import stat
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

MOST_BYTES = 1 << 30  # of an image; a sparse file of 1 kB on disk may say that it has a terabyte
# Folders of the layouts, which people keep on other disks, and convert_to_coco.py links to.
DATA_FOLDERS = frozenset(
    {"annotations", "images", "jpegimages", "labels", "train", "train2017", "val", "val2017",
     "valid", "validation", "test", "test2017"}
)  # fmt: skip


def regular_only(path: str, flags: int) -> int:
    """Open a file for `open(path, opener=regular_only)`: no pipe, socket or device, and no waiting.

    Raises:
        OSError: it is none that can be read to its end.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def own_only(path: str, flags: int) -> int:
    """Open a file that the toolkit writes, for `open(path, opener=own_only)`: a link is refused.

    What it leads to would be emptied or overwritten, wherever that is.

    Raises:
        OSError: a link, or no regular file.
    """
    refuse_link(path)  # also where there is no O_NOFOLLOW
    return regular_only(path, flags | getattr(os, "O_NOFOLLOW", 0))


def refuse_link(path: str | Path) -> None:
    """Refuse a link under the name of a file or folder that the toolkit writes.

    Raises:
        OSError: it is one.
    """
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "is a link, which is not written through; remove it", str(path))


def read_regular(path: str | Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a whole file as `regular_only` opens it.

    Raises:
        OSError: it cannot be read, or has more than `most_bytes`.
    """
    with open(path, "rb", opener=regular_only) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            reason = f"has {size:,} bytes, of which at most {most_bytes:,} are read"
            raise OSError(errno.EFBIG, reason, str(path))
        return file.read()


def is_inside(name: str) -> bool:
    """Tell whether a name from a file stays in the folder that it is joined to.

    It does not if it is absolute, on any system, or has a `..` or a NUL in it. Links are not looked
    at: a user may have linked folders of a data set.
    """
    if name[:1] not in ("", "/", "\\") and not any(sign in name for sign in ("..", ":", "\0")):
        return True  # nearly every name; told at a tenth of the time
    windows = PureWindowsPath(name)
    is_relative = not (PurePosixPath(name).is_absolute() or windows.drive or windows.root)
    return is_relative and ".." not in windows.parts and "\0" not in name and bool(name)


def is_below(folder: str | Path, name: str, *, strict: bool = False) -> bool:
    """Tell whether a file is inside a folder by its name, and by the links on the way to it.

    For what is written or moved: a link further inside may have come with the data. One right in
    the folder under a name of DATA_FOLDERS is taken as the user's own, unless `strict`.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate, from a file
        return False
    parent = os.path.realpath(os.path.dirname(os.path.join(folder, name)))
    roots = [os.path.realpath(folder), None if strict else linked_folder(folder, name)]
    return is_inside(name) and any(
        os.path.commonpath([root, parent]) == root for root in filter(None, roots)
    )


def linked_folder(folder: str | Path, name: str) -> str | None:
    """Where the link leads that a user has put in the place of one of DATA_FOLDERS.

    Args:
        folder: that the user named.
        name: of a file, relative to it.

    Returns:
        The folder in which `name` then lies; None where its first folder is no such link.
    """
    first, *rest = PurePath(name).parts or ("",)
    path = os.path.join(folder, first)
    if not rest or first.lower() not in DATA_FOLDERS or not os.path.islink(path):
        return None
    return os.path.realpath(path)
