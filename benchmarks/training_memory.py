#!/usr/bin/env python3
"""Memory of training on a COCO-sized data set: the whole training, and the loader for a long time.

    python benchmarks/training_memory.py [--folder DIR] [--workers 8] [--steps 20]

Makes the annotations of 118,287 images, and links to drawn images of their sizes, in a temporary
folder (or in --folder, which is kept and used again). Then runs, each in processes of its own:

- train_ssd.py, batch 32, for --steps steps;
- train_ssd.py for --trainer-epochs whole epochs of --epoch-images images, each with validation and
  a checkpoint;
- the loader alone, for --loader-images images, by default the whole data set once; with --epochs 4,
  the same number of images in four epochs.

Prints the memory of all processes together at the start (when all workers have begun), in the
middle and at the end, or the peak in each epoch: PSS, which counts a shared page once; and the
memory of each worker that no other process shares. Wanted: under 6 GB in total, and no growth.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from make_coco_sized_json import NUM_IMAGES, link_images, write_coco_sized_json
from process_memory import MB, total_pss, tree_memory

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MB = 6000


def main(argv: list[str] | None = None) -> int:
    """Measure both and print."""
    args = build_parser().parse_args(argv)
    if args.loader_only:
        run_loader(args)
        return 0
    with data_set(args.folder, args.images) as folder:
        peak = measure_trainer(args, folder)
        by_epoch = measure_epochs(args)
        # A process of its own: its memory is the loader's, without the data made here.
        command = [sys.executable, __file__, *(argv or sys.argv[1:]), "--loader-only"]
        subprocess.run([*command, "--folder", str(folder)], check=True)
    if len(by_epoch) > 2:
        print(f"the trainer's last epoch over its second: {by_epoch[-1] / by_epoch[1]:.2f}")
    print(f"the trainer at its peak: {peak:.0f} MB, {peak / LIMIT_MB:.2f} of {LIMIT_MB} MB")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line of this benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="of the data set; made if absent, and kept")
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="of the data set")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="of the trainer")
    parser.add_argument("--trainer-epochs", type=int, default=6)
    parser.add_argument("--epoch-images", type=int, default=320, help="of the trainer's epochs")
    parser.add_argument("--loader-images", type=int, help="default: the data set once")
    parser.add_argument("--epochs", type=int, default=1, help="of the loader, sharing the images")
    parser.add_argument("--loader-only", action="store_true")
    return parser


@contextlib.contextmanager
def data_set(folder: Path | None, num_images: int) -> Iterator[Path]:
    """Make the data set in a folder, a temporary one if None."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "data")
        if not folder.exists():
            annotation_file = folder / "annotations" / "instances_train2017.json"
            count = write_coco_sized_json(annotation_file, num_images=num_images)
            link_images(annotation_file, folder / "train2017")
            print(f"{num_images} images, {count} annotations", flush=True)
        yield folder


def measure_trainer(args: argparse.Namespace, folder: Path) -> float:
    """Run train_ssd.py for some steps, print its memory, and return its peak in MB."""
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, str(ROOT / "train_ssd.py"), "--datasets", str(folder)]
        command += ["--workers", str(args.workers), "--batch-size", str(args.batch_size)]
        command += ["--checkpoint-every-steps", str(args.steps), "--epochs", "30"]
        command += ["--checkpoint-folder", f"{run}/run"]
        samples: list[dict] = []
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as trainer:
            peak = 0.0
            while trainer.poll() is None and not list(Path(run, "run").glob("checkpoint_*")):
                memories = tree_memory(trainer.pid)
                peak = max(peak, total_pss(memories))
                if len(memories) > args.workers:
                    samples.append(memories)
                time.sleep(0.5)
            if trainer.poll() is not None:
                raise SystemExit(f"train_ssd.py ended with {trainer.returncode}")
            trainer.terminate()
    print(f"train_ssd.py, {args.workers} workers, batch {args.batch_size}, {args.steps} steps:")
    for name, memories in zip(
        ("start", "middle", "end"),
        (samples[0], samples[len(samples) // 2], samples[-1]),
        strict=True,
    ):
        print(f"  {name:7}{describe(memories, trainer.pid)}", flush=True)
    return peak


def measure_epochs(args: argparse.Namespace) -> list[float]:
    """Train whole epochs on few images; print and return the peak memory of each, in MB."""
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder, run = Path(place, "data"), Path(place, "run")
        for split, num_images in (("train", args.epoch_images), ("val", args.batch_size)):
            annotation_file = folder / "annotations" / f"instances_{split}2017.json"
            write_coco_sized_json(annotation_file, num_images=num_images)
            link_images(annotation_file, folder / f"{split}2017")
        command = [sys.executable, str(ROOT / "train_ssd.py"), "--datasets", str(folder)]
        command += ["--workers", str(args.workers), "--batch-size", str(args.batch_size)]
        command += ["--epochs", str(args.trainer_epochs), "--checkpoint-folder", str(run)]
        print(f"train_ssd.py, {args.trainer_epochs} epochs of {args.epoch_images} images:")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as trainer:
            peak = 0.0
            while trainer.poll() is None:
                peak = max(peak, total_pss(tree_memory(trainer.pid)))
                metrics = run / "metrics.jsonl"
                done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
                if done > len(peaks):
                    peaks.append(peak)
                    print(f"  epoch {done}: at most {peak:.0f} MB in all", flush=True)
                    peak = 0.0
                time.sleep(0.2)
        if trainer.returncode:
            raise SystemExit(f"train_ssd.py ended with {trainer.returncode}")
    return peaks


def run_loader(args: argparse.Namespace) -> None:
    """Load the images with the training loader, and print the memory during it."""
    import numpy as np

    from vision.datasets.coco import CocoDetection
    from vision.datasets.layouts.choose import open_split
    from vision.datasets.loader import DetectionLoader
    from vision.transforms.presets import build_train_transform

    source = open_split(args.folder, "train")
    total = args.loader_images or len(source.index)
    transform = build_train_transform("ssd", image_size=(300, 300), mean=[127])
    dataset = CocoDetection(
        [source], transform=transform, image_indices=np.arange(total // args.epochs)
    )
    loader = DetectionLoader(
        dataset, batch_size=args.batch_size, num_workers=args.workers, shuffle=True
    )
    num_batches = args.epochs * len(loader)
    print(f"the loader, {args.workers} workers, {args.epochs} epochs of {len(dataset)} images:")
    begin = time.perf_counter()
    done = 0
    # By then every worker has made several batches.
    due = {min(8 * args.workers, num_batches): "start", num_batches: "end"}
    due |= {num_batches * quarter // 4: f"{quarter}/4" for quarter in (1, 2, 3)}
    for epoch in range(args.epochs):
        loader.set_position(epoch)
        for _ in loader:
            done += 1
            if done in due:
                print(f"  {due[done]:7}{describe(tree_memory())}", flush=True)
    seconds = time.perf_counter() - begin
    print(f"  {done * args.batch_size / seconds:.0f} images/s", flush=True)


def describe(memories: dict, main_pid: int | None = None) -> str:
    """Format the memory of all processes together, and the unshared memory of each worker."""
    main, *workers = [memories[main_pid]] if main_pid else list(memories.values())[:1]
    workers = [m for m in memories.values() if m is not main]
    own = sorted(worker.uss / MB for worker in workers)
    return (
        f"{total_pss(memories):6.0f} MB in all; the main process {main.pss / MB:.0f}; "
        f"{len(own)} workers with {own[0]:.0f} to {own[-1]:.0f} MB to themselves"
    )


if __name__ == "__main__":
    raise SystemExit(main())
