"""Images/s on one core: the training loader, with and without --cache, compared with decoding alone
and with torchvision's SSD augmentation, on the same files in the same run.

    python benchmarks/loader.py --datasets ../shared/data/coco-mini --image-size 300

Ours is the loader of training: it reads, decodes, augments, resizes and collates batches (without
worker processes, so on one core). "Bare decode" is OpenCV's decoder, with files in the page cache.
--cache ram and disk are filled before the first timing. torchvision's peer decodes with the same
function, then runs the transforms.v2 of its reference SSD recipe.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from vision.datasets.coco import CocoDetection
from vision.datasets.coco_folder import split_files
from vision.datasets.coco_index import load_coco_index
from vision.datasets.image_cache import build_image_cache
from vision.datasets.image_files import read_image
from vision.datasets.loader import DetectionLoader
from vision.transforms.presets import PRESETS, build_train_transform

MEAN = (127, 127, 127)
NAMES = {
    "decode": "bare decode (OpenCV)",
    "read": "read_image",
    "loader": "loader",
    "ram": "loader, warm --cache ram",
    "disk": "loader, warm --cache disk",
    "torchvision": "torchvision.transforms.v2",
}


def keep_source(image, target, rng):
    """The transform of the peer's data set: changes nothing, so that the peer gets whole images."""
    return image, target


def torchvision_ssd(size: int) -> v2.Transform:
    """The "ssd" preset of torchvision's references/detection, followed by a resize."""
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: MEAN, "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((size, size), antialias=False),
            v2.SanitizeBoundingBoxes(),
        ]
    )


def images_per_second(work: Callable[[], int], clock: Callable[[], float]) -> float:
    """Time `work`, which returns its number of images."""
    start = clock()
    num_images = work()
    return num_images / (clock() - start)


def decode_files(paths: list[Path]) -> int:
    """Decode all images, and do nothing else."""
    flag = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
    for path in paths:
        cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flag)
    return len(paths)


def read_files(paths: list[Path]) -> int:
    """Read all files, and do nothing else."""
    for path in paths:
        read_image(path)
    return len(paths)


def fill_cache(
    sources: list, transform: Callable, kind: str, *, size: tuple[int, int], folder: str
) -> CocoDetection:
    """Make a data set with all images in its cache."""
    dataset = CocoDetection(sources, transform=transform)
    dataset.cache = build_image_cache(kind, dataset.sizes, input_size=size, folder=folder)
    load_batches(dataset, batch_size=32, epoch=0)
    return dataset


def load_batches(dataset: CocoDetection, *, batch_size: int, epoch: int) -> int:
    """Go through our loader once."""
    loader = DetectionLoader(dataset, batch_size=batch_size, num_workers=0, shuffle=True)
    loader.set_position(epoch)
    return sum(len(images) for images, _ in loader)


def run_torchvision(dataset: CocoDetection, transform: v2.Transform, *, num_images: int) -> int:
    """Go through torchvision's transforms and torch's loader once."""
    for index in range(num_images):
        image, target = dataset[index]
        height, width = image.shape[:2]
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(target["boxes"]), format="XYXY", canvas_size=(height, width)
        )
        pixels = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
        transform(pixels, {"boxes": boxes, "labels": torch.from_numpy(target["labels"])})
    return num_images


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", default="../shared/data/coco-mini", help="COCO folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--image-size", type=int, default=300, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--augmentation", choices=PRESETS, default="ssd")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="do not count the time that other programs take from this one",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print images per second of each way."""
    args = parse_arguments(argv)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    clock = time.process_time if args.processor_time else time.perf_counter
    annotation_file, folder = split_files(args.datasets, args.split)
    sources = [(load_coco_index(annotation_file), folder)]
    index = sources[0][0]
    paths = [Path(folder) / index.file_name(i) for i in range(len(index.image_ids))]
    size = (args.image_size, args.image_size)
    transform = build_train_transform(args.augmentation, image_size=size, mean=MEAN)
    source = CocoDetection(sources, transform=keep_source)
    peer = torchvision_ssd(args.image_size)
    decode_files(paths)  # into the page cache
    with tempfile.TemporaryDirectory() as folder:
        loaders = {"loader": CocoDetection(sources, transform=transform)} | {
            kind: fill_cache(sources, transform, kind, size=size, folder=folder)
            for kind in ("ram", "disk")
        }
        rates: dict[str, list[float]] = {name: [] for name in NAMES}
        for epoch in range(args.repeats):
            # The machine's other load changes within seconds, so the tasks run in turn.
            work = {
                "decode": lambda: decode_files(paths),
                "read": lambda: read_files(paths),
                "torchvision": lambda: run_torchvision(source, peer, num_images=len(paths) // 4),
            } | {
                name: partial(load_batches, dataset, batch_size=args.batch_size, epoch=epoch)
                for name, dataset in loaders.items()
            }
            for name in NAMES:
                rates[name].append(images_per_second(work[name], clock))
    report(rates, len(paths), args)
    return 0


def report(rates: dict[str, list[float]], num_images: int, args: argparse.Namespace) -> None:
    """Print the rates of each way."""
    time_counted = "processor time" if args.processor_time else "wall time"
    print(
        f"{num_images} images, {args.augmentation} at {args.image_size} px, one core, "
        f"{time_counted}, {args.repeats} repeats; torch {torch.__version__}, "
        f"OpenCV {cv2.__version__}"
    )
    for key, values in rates.items():
        middle = statistics.median(values)
        print(f"{NAMES[key]:28} {middle:7.0f} images/s ({min(values):.0f} to {max(values):.0f})")
    pairs = (("loader", "torchvision"), ("ram", "loader"), ("disk", "loader"), ("loader", "decode"))
    for first, second in pairs:
        ratios = [a / b for a, b in zip(rates[first], rates[second], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{NAMES[first]} / {NAMES[second]}: {statistics.median(ratios):.2f} {spread}")


if __name__ == "__main__":
    raise SystemExit(main())
