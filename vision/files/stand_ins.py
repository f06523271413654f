"""Placeholders that downloads leave under the name of a file: Git LFS pointers and web pages."""

_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype html", b"<html")


def stand_in(head: bytes) -> str | None:
    """Say which placeholder a file is, and what to do; None: it is none of the known ones.

    Args:
        head: the first bytes of the file, some hundred.
    """
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    if head.lstrip().lower().startswith(_PAGES):
        return "a web page, not the file itself; download it again"
    return None


def refuse_stand_in(head: bytes, path: object) -> None:
    """Raise ValueError, naming `path`, where the first bytes are those of a placeholder."""
    problem = stand_in(head)
    if problem:
        raise ValueError(f"{path}: {problem}")
