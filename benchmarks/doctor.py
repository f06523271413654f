"""check_dataset.py on many images: seconds and peak memory.

    python benchmarks/doctor.py                      # 10,000 images of 640x480
    python benchmarks/doctor.py --images 120000      # hard links to 10,000: all are there 12 times

The images are drawn, each unlike the others, with two boxes of one of five classes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIZE = (480, 640)
DIFFERENT = 10_000


def draw(folder: Path, count: int) -> list[str]:
    """Write images; those beyond DIFFERENT are links to the first ones."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        if number >= DIFFERENT:
            os.link(folder / names[number % DIFFERENT], folder / name)
            continue
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pixels = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 24, (*SIZE, 1), dtype=np.uint8)
        assert cv2.imwrite(str(folder / name), cv2.add(pixels, np.repeat(noise, 3, axis=2)))
    return names


def annotate(root: Path, split: str, names: list[str]) -> None:
    """Write the annotations of a split."""
    rng = np.random.default_rng(1)
    height, width = SIZE
    boxes = (rng.uniform(0.02, 0.3, (2 * len(names), 4)) * [width, height, width, height]).tolist()
    content = {
        "images": [
            {"id": i, "file_name": name, "height": height, "width": width}
            for i, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": k, "image_id": 1 + k // 2, "category_id": 1 + k // 2 % 5, "bbox": box}
            for k, box in enumerate(boxes)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 6)],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def main(argv: list[str] | None = None) -> int:
    """Print the doctor's seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=DIFFERENT)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        num_val = args.images // 10
        annotate(root, "train", draw(root / "train", args.images - num_val))
        (root / "train").rename(root / "images")
        names = [f"val/{number:06d}.jpg" for number in range(num_val)]
        draw(root / "images/val", num_val)
        annotate(root, "val", names)
        command = [sys.executable, str(ROOT / "check_dataset.py"), "--dataset", folder]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = process.stdout.read().splitlines()
        _, _, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    print("\n".join(lines[:6]))
    print(
        f"{args.images} images, {os.cpu_count()} cores: {seconds:.1f} s, peak "
        f"{usage.ru_maxrss * 1024 / 1e6:.0f} MB"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
