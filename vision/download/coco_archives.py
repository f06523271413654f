"""COCO's zip files: names, sizes, and SHA-256 digests."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vision.files.text import read_text

# COCO's bucket under Amazon's name, which its certificate is for: images.cocodataset.org has none
# (mlcommons/inference, pull request 2572).
OFFICIAL_URL = "https://s3.amazonaws.com/images.cocodataset.org"
PLAIN_URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Archive:
    """One zip file on a server.

    Attributes:
        path: under the base URL.
        num_bytes: size of the zip.
        content_bytes: total size of the files in it, to compute the disk space needed.
        sha256: digest of COCO's own zip; None: not known.
        is_exact: whether a zip of another size or digest is wrong.
    """

    path: str
    num_bytes: int
    content_bytes: int
    sha256: str | None = None
    is_exact: bool = True

    @property
    def name(self) -> str:
        """`train2017.zip`"""
        return self.path.rsplit("/", 1)[-1]


# Sizes and digests are those of tensorflow/datasets (tensorflow_datasets/url_checksums/coco.txt).
# pytorch/vision (torchvision/prototype/datasets/_builtin/coco.py) has the same ones for train, val
# and annotations, facebookresearch/ParlAI (parlai/tasks/coco_caption/build_2017.py) for all but
# train.
# JPEGs cannot be compressed further, so a zip of images is as large as its content. For
# image_info_test2017.zip public sources give two sizes (1,133,069 and 1,144,034 bytes).
ARCHIVES = {
    "train": (
        Archive(
            "zips/train2017.zip",
            19_336_861_798,
            19_400_000_000,
            "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
    ),
    "val": (
        Archive(
            "zips/val2017.zip",
            815_585_330,
            820_000_000,
            "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
    ),
    "test": (
        Archive(
            "zips/test2017.zip",
            6_646_970_404,
            6_700_000_000,
            "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba",
        ),
        Archive(
            "annotations/image_info_test2017.zip",
            1_144_034,
            12_000_000,
            "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
            is_exact=False,
        ),
    ),
    "annotations": (
        Archive(
            "annotations/annotations_trainval2017.zip",
            252_907_541,
            834_416_290,
            "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        ),
    ),
}


def archives_for(splits: Iterable[str]) -> list[Archive]:
    """Return the archives of some splits, each once, largest first.

    Raises:
        ValueError: a split does not exist.
    """
    found: set[Archive] = set()
    for split in splits:
        if split not in ARCHIVES:
            raise ValueError(f"no split {split!r}: choose from {','.join(ARCHIVES)}")
        found.update(ARCHIVES[split])
    return sorted(found, key=lambda archive: (-archive.num_bytes, archive.name))


def read_checksums(path: Path) -> dict[str, str]:
    """Read SHA-256 digests by file name, in the format that `sha256sum` writes.

    Raises:
        ValueError: a line has another format; names file and line.
    """
    digests = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        digest, _, name = line.strip().partition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef") or not name.strip():
            raise ValueError(f"{path}:{number}: not a line of sha256sum ('<64 digits>  <name>')")
        digests[name.strip().lstrip("*").rsplit("/", 1)[-1]] = digest.lower()
    return digests
