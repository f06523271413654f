"""Loading the annotation index of a COCO-sized file: time, memory, and 8 workers for an epoch.

    python benchmarks/annotation_index.py

Each line is measured in a process of its own. "peak" and "kept" are resident memory: the maximum,
with interpreter and imports, and what loading added, after garbage collection. The unique set size
of a worker is the memory that no other process shares (private pages in smaps_rollup, Linux only).
The peer is pycocotools' COCO object, which most toolkits use. Image files are links to four JPEGs,
so that the check at start-up finds all 118,287.
"""

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NUM_WORKERS = 8
BATCH = 16


def main(argv: list[str] | None = None) -> int:
    """Print seconds and memory of each reader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16_000, help="images in the epoch")
    parser.add_argument("--only", choices=sorted(TASKS), help="run one task in this process")
    parser.add_argument("--folder", type=Path, help="with --only: where the files are")
    arguments = parser.parse_args(argv)
    if arguments.only:
        TASKS[arguments.only](arguments.folder, arguments.images)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generator = [ROOT / "benchmarks" / "make_coco_sized_json.py"]
        run([*generator, "--output", Path(folder, "instances.json")])
        for name in TASKS:
            run([__file__, "--only", name, "--folder", folder, "--images", arguments.images])
        ours, peer = (json.loads(Path(folder, name).read_text()) for name in ("ours", "peer"))
    ratios = [peer[what] / ours[what] for what in ("seconds", "peak", "kept")]
    print("against pycocotools: {:.1f} times as fast, peak {:.1f} and kept {:.1f} "
          "times less memory".format(*ratios))  # fmt: skip
    return 0


def run(command: list) -> None:
    """Run a Python script that can import the project, without torch's warnings about workers."""
    command = [sys.executable, "-W", "ignore", *map(str, command)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def measure_load(name: str, folder: Path, load: Callable[[Path], object]) -> None:
    """Load once; print and store seconds and megabytes."""
    gc.collect()
    before = memory("status", "VmRSS")
    start, cpu_start = time.perf_counter(), time.process_time()
    loaded = load(folder / "instances.json")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    gc.collect()
    figures = {
        "seconds": cpu,  # on a busy machine the fairer of the two
        "peak": memory("status", "VmHWM"),
        "kept": memory("status", "VmRSS") - before,
    }
    (folder / name).write_text(json.dumps(figures))
    print(
        f"{type(loaded).__name__}: {seconds:.2f} s ({cpu:.2f} s of CPU), "
        f"peak {figures['peak']:.0f} MB, kept {figures['kept']:.0f} MB"
    )


def memory(file: str, *keys: str, pid: int | str = "self") -> float:
    """Return the sum of some lines of /proc/PID/FILE in MB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/{file}").read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0].rstrip(":") in keys) * 1024 / 1e6


def load_ours(folder: Path, _num_images: int) -> None:
    """Read the file as flat arrays."""
    from vision.datasets.coco_index import load_coco_index

    measure_load("ours", folder, load_coco_index)


def load_peer(folder: Path, _num_images: int) -> None:
    """Read the file as the peer does."""
    measure_load("peer", folder, load_with_pycocotools)


def load_with_pycocotools(path: Path) -> object:
    """Read the file with pycocotools."""
    from contextlib import redirect_stdout

    from pycocotools.coco import COCO

    with redirect_stdout(None):
        return COCO(str(path))


def keep_a_corner(image: np.ndarray, target: dict, _rng: np.random.Generator):
    """A transform that keeps a corner of the image, so that only the data set's memory grows."""
    return np.ascontiguousarray(image[:8, :8]), target


def workers_of_ours(folder: Path, num_images: int, method: str) -> None:
    """Measure the memory of our loader's workers."""
    from vision.datasets.coco import CocoDetection
    from vision.datasets.coco_index import load_coco_index
    from vision.datasets.loader import DetectionLoader

    multiprocessing.set_start_method(method)
    index = load_coco_index(folder / "instances.json")
    images = folder / "images"
    if not images.exists():
        link_images(index, images)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(index), min(num_images, len(index)), replace=False)
    start = time.perf_counter()
    dataset = CocoDetection([(index, images)], transform=keep_a_corner, image_indices=chosen)
    if method == "fork":
        print(f"start-up scan for {len(index)} image files: {time.perf_counter() - start:.2f} s")
    loader = DetectionLoader(dataset, batch_size=BATCH, num_workers=NUM_WORKERS, shuffle=True)
    report_growth(f"CocoDetection, {method}", loader)


def link_images(index, folder: Path) -> None:
    """Make a file for every image: a link to one of a few JPEGs of the right size."""
    import cv2

    folder.mkdir()
    for i in range(len(index)):
        height, width = map(int, index.sizes[i])
        target = folder / f"{height}x{width}.jpg"
        if not target.exists():
            cv2.imwrite(str(target), np.full((height, width, 3), 127, np.uint8))
        (folder / index.file_name(i)).symlink_to(target.name)


class PeerDataset:
    """A data set based on pycocotools: the boxes of an image, without its pixels."""

    def __init__(self, path: Path, num_images: int) -> None:
        self.coco = load_with_pycocotools(path)
        self.ids = np.random.default_rng(0).permutation(self.coco.getImgIds())[:num_images]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> np.ndarray:
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=int(self.ids[i])))
        return np.array([annotation["bbox"] for annotation in annotations]).reshape(-1, 4)


def workers_of_peer(folder: Path, num_images: int) -> None:
    """Measure the memory of the peer's workers."""
    from torch.utils.data import DataLoader

    dataset = PeerDataset(folder / "instances.json", num_images)
    loader = DataLoader(dataset, BATCH, num_workers=NUM_WORKERS, collate_fn=list)
    report_growth("pycocotools, fork", loader)


def report_growth(name: str, batches: Iterable) -> None:
    """Load an epoch, and print the unique set size of the workers during it."""
    private = ("Private_Clean", "Private_Dirty", "Private_Hugetlb")
    # the first when all have worked, the last while all are alive
    moments = {2 * NUM_WORKERS: "start", len(batches) // 2: "half-way"}
    moments[len(batches) - 2 * NUM_WORKERS] = "end"
    sizes: dict[str, list[float]] = {}
    for number, _ in enumerate(batches, 1):
        if number in moments:
            pids = sorted(child.pid for child in multiprocessing.active_children())
            values = [memory("smaps_rollup", *private, pid=pid) for pid in pids]
            sizes[moments[number]] = values
            shown = " ".join(f"{value:.1f}" for value in values)
            print(f"{name}, {moments[number]}, unique MB of each worker: {shown}", flush=True)
    for first, last in itertools.pairwise(sizes):
        growth = max(end - start for start, end in zip(sizes[first], sizes[last], strict=True))
        print(f"{name}: from {first} to {last}, the most that a worker grew is {growth:.1f} MB")


TASKS = {
    "index": load_ours,
    "pycocotools": load_peer,
    "workers-fork": lambda folder, images: workers_of_ours(folder, images, "fork"),
    "workers-spawn": lambda folder, images: workers_of_ours(folder, images, "spawn"),
    "workers-pycocotools": workers_of_peer,
}


if __name__ == "__main__":
    raise SystemExit(main())
