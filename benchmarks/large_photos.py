"""Reading and augmenting 4000 x 3000 photos: decoding at the scale that the crop needs, compared
with decoding at full size.

    python benchmarks/large_photos.py --images ../shared/data/coco-mini/val2017

The given photos are enlarged in a temporary folder. Both use the same random crops.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from vision.datasets.image_files import read_image
from vision.transforms.presets import PRESETS, ViewTransform, build_train_transform

SIZE = (3000, 4000)
TARGET = {
    "boxes": np.array([[400, 300, 2500, 2400], [3000, 1000, 3400, 1500]], np.float32),
    "labels": np.array([1, 2]),
    "iscrowd": np.zeros(2, bool),
}


def write_photos(source: Path, folder: Path, num_photos: int) -> list[Path]:
    """Enlarge images to photos of SIZE; return their files."""
    paths = []
    for path in sorted(source.glob("*.jpg"))[:num_photos]:
        photo = cv2.resize(cv2.imread(str(path)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        paths.append(folder / path.name)
        cv2.imwrite(str(paths[-1]), photo, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def read_whole(path: Path, transform: ViewTransform, rng: np.random.Generator) -> None:
    """Decode a photo whole, and transform it."""
    transform(read_image(path, size=SIZE), TARGET, rng)


def read_scaled(path: Path, transform: ViewTransform, rng: np.random.Generator) -> None:
    """Decode a photo in the scale that its view needs, and transform it."""
    plan = transform.plan(SIZE, TARGET, rng)
    image = read_image(path, size=SIZE, min_size=plan.min_size)
    transform.apply(image, TARGET, plan, rng)


def images_per_second(read, paths: list[Path], transform: ViewTransform, seed: int) -> float:
    """Time one way of reading over all photos."""
    start = time.perf_counter()
    for i, path in enumerate(paths):
        read(path, transform, np.random.default_rng((seed, i)))
    return len(paths) / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    """Print the images per second of both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("../shared/data/coco-mini/val2017"))
    parser.add_argument("--image-size", type=int, default=300, help="pixels")
    parser.add_argument("--num-photos", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    size = (args.image_size, args.image_size)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(args.images, Path(folder), args.num_photos)
        print(f"{len(paths)} photos of {SIZE[1]} x {SIZE[0]} to {args.image_size} px, one core")
        for name in PRESETS:
            transform = build_train_transform(name, image_size=size, mean=(127, 127, 127))
            whole, scaled = [], []
            for repeat in range(args.repeats):
                whole.append(images_per_second(read_whole, paths, transform, repeat))
                scaled.append(images_per_second(read_scaled, paths, transform, repeat))
            ratios = [a / b for a, b in zip(scaled, whole, strict=True)]
            print(
                f"{name:6} whole {statistics.median(whole):5.1f} images/s, scaled "
                f"{statistics.median(scaled):5.1f}, ratio {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
