"""Decoding large photos for a small network: at full size, and at the smallest JPEG scale needed.

    python benchmarks/scaled_decode.py [--images FOLDER] [--image-size 300]

Both end with the resize of the evaluation transform. The photos of FOLDER are first enlarged to
4000 x 3000. The difference between the two results is printed too, in grey levels.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from vision.datasets.image_files import read_image
from vision.datasets.image_list import list_images

SIZE = (3000, 4000)  # height, width


def write_photos(source: Path, folder: Path, num_photos: int) -> list[Path]:
    """Write enlarged copies, compressed as by a camera."""
    paths = []
    for path in list_images(source)[:num_photos]:
        photo = cv2.resize(cv2.imread(path), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        paths.append(folder / Path(path).name)
        cv2.imwrite(str(paths[-1]), photo, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def load(path: Path, size: tuple[int, int], *, is_scaled: bool) -> np.ndarray:
    """Return the network's input [size, size, 3] before normalisation."""
    image = read_image(path, size=SIZE, min_size=size if is_scaled else None)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def images_per_second(paths: list[Path], size: tuple[int, int], *, is_scaled: bool) -> float:
    """Time reading and transforming all images once."""
    start = time.perf_counter()
    for path in paths:
        load(path, size, is_scaled=is_scaled)
    return len(paths) / (time.perf_counter() - start)


def main() -> int:
    """Time both in turn in several rounds; print the ratio last."""
    parser = argparse.ArgumentParser(description=__doc__)
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-mini" / "val2017"
    parser.add_argument("--images", type=Path, default=shared)
    parser.add_argument("--image-size", type=int, default=300, help="pixels")
    parser.add_argument("--num-photos", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    size = (args.image_size, args.image_size)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(args.images, Path(folder), args.num_photos)
        differences = [
            cv2.absdiff(load(path, size, is_scaled=False), load(path, size, is_scaled=True)).mean()
            for path in paths
        ]
        print(f"mean difference of the two inputs: {statistics.mean(differences):.1f} of 255")
        whole, scaled = [], []
        for _ in range(args.rounds):
            whole.append(images_per_second(paths, size, is_scaled=False))
            scaled.append(images_per_second(paths, size, is_scaled=True))
    print(f"{len(paths)} photos of {SIZE[1]}x{SIZE[0]} to {args.image_size} px, one core:")
    print(f"whole {statistics.median(whole):.1f} images/s, scaled {statistics.median(scaled):.1f}")
    ratio = statistics.median(b / a for a, b in zip(whole, scaled, strict=True))
    print(f"scaled / whole: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
