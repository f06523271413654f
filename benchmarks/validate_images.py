"""Validating images, compared with a plain loop over the same decoder in as many processes.

    python benchmarks/validate_images.py [--images FOLDER] [--files 2000] [--workers 2]

The photos of FOLDER are linked again and again until there are enough. The ratio is given in wall
time and, for a machine that has other work, in processor time of all processes. First it measures
the memory of all processes together for 123,000 files; small files, since only the number matters.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import io as skimage_io

from vision.datasets.findings import Findings
from vision.datasets.image_list import list_images
from vision.validate.image_entries import Annotations
from vision.validate.validate_folder import validate_folder

NUM_COCO = 123_000


def link_files(sources: list[str], folder: Path, count: int) -> list[str]:
    """Make `count` links to the sources in turn."""
    folder.mkdir()
    files = [str(folder / f"{number:06d}.jpg") for number in range(count)]
    for number, file in enumerate(files):
        os.symlink(os.path.abspath(sources[number % len(sources)]), file)
    return files


def decode_all(files: list[str]) -> None:
    """The peer: only decode."""
    for file in files:
        skimage_io.imread(file)


def clocks() -> np.ndarray:
    """Return wall seconds, and processor seconds of this process and its ended children."""
    times = os.times()
    return np.array([time.perf_counter(), sum(times[:4])])


def time_bare_loop(files: list[str], workers: int) -> np.ndarray:
    """Return the wall and processor seconds of `workers` processes that share the files."""
    start = clocks()
    processes = [
        multiprocessing.Process(target=decode_all, args=(files[worker::workers],))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return clocks() - start


def time_validation(folder: Path, workers: int) -> np.ndarray:
    """Return the wall and processor seconds of the validator, which must find nothing."""
    start = clocks()
    findings = Findings()
    validate_folder(folder, Annotations(), workers=workers, findings=findings)
    assert not findings.counts
    return clocks() - start


def resident_bytes() -> int:
    """Return the resident memory of this process and its children; shared pages count in each."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in processes)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(folder: Path, workers: int) -> tuple[int, int]:
    """Return the bytes after a tenth of the files and after the last one."""
    samples = []

    def sampled(checks: Iterable, total: int) -> Iterator:
        for number, check in enumerate(checks, 1):
            if number in (total // 10, total - 1):
                samples.append(resident_bytes())
            yield check

    validate_folder(folder, Annotations(), workers=workers, findings=Findings(), progress=sampled)
    return samples[0], samples[1]


def main() -> int:
    """Time both in turn in several rounds; print the ratio last."""
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-mini"
    parser.add_argument("--images", type=Path, default=shared)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    photos = [file for file in list_images(args.images) if file.endswith(".jpg")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = folder / "small.jpg"
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(small)
        link_files([str(small)], folder / "many", NUM_COCO)
        at_tenth, at_end = measure_memory(folder / "many", args.workers)
        print(f"memory of {args.workers} workers and their parent over {NUM_COCO} files:")
        print(f"{at_tenth / 2**20:.0f} MB at a tenth, {at_end / 2**20:.0f} MB at the end")

        files = link_files(photos, folder / "photos", args.files)
        decode_all(files[: len(photos)])  # into the page cache
        ratios = []
        for _ in range(args.rounds):
            bare = time_bare_loop(files, args.workers)
            ours = time_validation(folder / "photos", args.workers)
            ratios.append(bare / ours)
            speeds = len(files) / np.array([bare[0], ours[0]])
            print(f"bare loop {speeds[0]:.0f} images/s, validator {speeds[1]:.0f}")
    wall, processor = np.median(ratios, axis=0)
    print(f"speed of the validator / bare loop, {args.workers} processes:", end=" ")
    print(f"{wall:.2f} in wall time, {processor:.2f} in processor time")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
