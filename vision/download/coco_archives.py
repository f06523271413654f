"""COCO's zip files: which there are, how large they are, and their digests."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
