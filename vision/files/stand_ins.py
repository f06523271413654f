"""What downloads leave under the name of a file: pointers to it, web pages, and nothing."""

_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype html", b"<html")


def stand_in(head: bytes) -> str | None:
    """Say in words what a file is that is not the one its name says; None: nothing is known.

    Args:
        head: the first bytes of the file, some hundred.
    """
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    if head.lstrip().lower().startswith(_PAGES):
        return "a web page, not the file itself; download it again"
    return None


def refuse_stand_in(head: bytes, path: object) -> None:
    """Raise ValueError with the path where `stand_in` knows what the file is."""
    problem = stand_in(head)
    if problem:
        raise ValueError(f"{path}: {problem}")
