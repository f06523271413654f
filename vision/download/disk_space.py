"""Checking, before the download, that COCO's archives and their files fit on the disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vision.download.coco_archives import Archive
from vision.download.coco_install import absent_members, is_present
from vision.download.unzip import DamagedArchive, UnsafeArchive, read_members

# A file occupies whole blocks of the disk: 118,000 images need half a block more each, on average.
BLOCKS_FACTOR = 1.02


def check_free_space(archives: Sequence[Archive], root: Path, *, keep_zips: bool) -> bool:
    """Return whether all archives fit at the same time; False: one after the other they fit.

    Args:
        archives: in the order in which they are unpacked.

    Raises:
        ValueError: they do not fit either way; says how many bytes are missing, and for what.
    """
    needs = [_space_needed(archive, root) for archive in archives]
    free = shutil.disk_usage(root).free
    together = sum(zip_bytes + content_bytes for zip_bytes, content_bytes in needs)
    if together <= free:
        return True
    one_by_one = unpacked = 0
    for zip_bytes, content_bytes in needs:
        one_by_one = max(one_by_one, unpacked + zip_bytes + content_bytes)
        unpacked += content_bytes
    if one_by_one <= free and not keep_zips:
        return False
    required = together if keep_zips else one_by_one
    details = ", ".join(
        f"{archive.name} {_gigabytes(zip_bytes)} and its files {_gigabytes(content_bytes)}"
        for archive, (zip_bytes, content_bytes) in zip(archives, needs, strict=True)
        if zip_bytes + content_bytes
    )
    raise ValueError(
        f"{root}: {_gigabytes(free)} are free, {_gigabytes(required)} are needed ({details}): "
        f"free {_gigabytes(required - free)}, or choose fewer --splits or another --path"
    )


def _space_needed(archive: Archive, root: Path) -> tuple[int, int]:
    """Return the bytes still to write for the zip, and for the files in it."""
    absent = absent_members(archive, root)
    if absent == []:
        return 0, 0
    zip_path = root / archive.name
    content = sum(member.size for member in absent) if absent else archive.content_bytes
    if zip_path.exists():
        try:
            members = read_members(zip_path)
            content = sum(m.size for m in members if not is_present(root / m.name, m.size))
            return 0, round(content * BLOCKS_FACTOR)
        except (DamagedArchive, UnsafeArchive):
            pass  # the installation moves it away or refuses it
    part = zip_path.with_name(zip_path.name + ".part")
    here = getattr(part.stat(), "st_blocks", 0) * 512 if part.exists() else 0
    return max(0, archive.num_bytes - here), round(content * BLOCKS_FACTOR)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.3g} MB"
