"""Converting 100,000 YOLO label files, against only reading the same files.

    python benchmarks/convert_yolo.py [--files 100000] [--rows 8]

The peer reads every label file and the first 512 bytes of every image, as any converter must, to
know the sizes; it parses and writes nothing. Ours reads, checks, converts and writes the COCO file.
Measured once with all files in the page cache, and once with none of them in it.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vision.datasets.coco_export import write_coco_root
from vision.datasets.findings import Findings
from vision.datasets.yolo import read_yolo
from vision.datasets.yolo_export import coco_of


def small_jpeg(rng: np.random.Generator) -> bytes:
    """Make a JPEG of 160 x 120: only the header of an image is read."""
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def make_folder(root: Path, num_files: int, num_rows: int) -> None:
    """Make a data set folder with copies of a few small images."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels", "splits"):
        (root / name).mkdir()
    photos = [small_jpeg(rng) for _ in range(10)]
    (root / "classes.txt").write_text("".join(f"class{number}\n" for number in range(80)))
    with open(root / "splits" / "val.txt", "w") as split:
        for number in range(num_files):
            boxes = rng.uniform(0.2, 0.4, (num_rows, 4))
            rows = zip(rng.integers(0, 80, num_rows), boxes, strict=True)
            lines = (
                f"{label} {' '.join(f'{value:.6f}' for value in box)}\n" for label, box in rows
            )
            (root / "labels" / f"{number:06d}.txt").write_text("".join(lines))
            (root / "images" / f"{number:06d}.jpg").write_bytes(photos[number % len(photos)])
            split.write(f"/elsewhere/images/{number:06d}.jpg\n")


def read_files(root: Path, num_files: int) -> None:
    """The peer: read what any converter must read."""
    for number in range(num_files):
        with open(f"{root}/labels/{number:06d}.txt", "rb", buffering=0) as stream:
            stream.read()
        with open(f"{root}/images/{number:06d}.jpg", "rb", buffering=0) as stream:
            stream.read(512)


def convert(root: Path, output: Path) -> None:
    """Ours: from the folder to the written file."""
    splits = read_yolo(root, findings=Findings())
    write_coco_root(
        {split: (coco_of(data), data.image_folder) for split, data in splits.items()}, output
    )


def evict(root: Path) -> None:
    """Drop the files from the page cache (their directory entries stay)."""
    os.sync()
    for folder in ("labels", "images"):
        for entry in os.scandir(root / folder):
            descriptor = os.open(entry.path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def seconds(work: Callable[[], None], prepare: Callable[[], None], rounds: int) -> float:
    """Median time of `work`, each after `prepare`."""
    times = []
    for _ in range(rounds):
        prepare()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> int:
    """Print the two ratios last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=8, help="rows in a label file")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        root, output = Path(name) / "set", Path(name) / "coco"
        root.mkdir()
        make_folder(root, args.files, args.rows)
        read = partial(read_files, root, args.files)
        ours = partial(convert, root, output)
        for place, prepare in (("page cache", read), ("disk", partial(evict, root))):
            reading = seconds(read, prepare, args.rounds)
            converting = seconds(ours, prepare, args.rounds)
            print(
                f"{args.files} label files of {args.rows} rows and their images, from the {place}:"
            )
            print(f"reading {reading:.1f} s, converting {converting:.1f} s")
            ratios.append(f"{converting / reading:.2f} from the {place}")
    print(f"converting / reading: {', '.join(ratios)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
