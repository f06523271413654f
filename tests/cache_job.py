"""What fills an image cache: a data set with one, and a process that does it with two workers."""

import os
import time
from pathlib import Path

from vision.datasets.coco import CocoDetection
from vision.datasets.coco_index import load_coco_index
from vision.datasets.image_cache import build_image_cache
from vision.datasets.loader import DetectionLoader
from vision.transforms.presets import build_train_transform

INPUT = (48, 64)


def build_dataset(root, cache="none", *, input_size=INPUT, preset="ssd", folder=None):
    """Open the train split of a folder, to be read through a cache."""
    index = load_coco_index(root / "annotations/instances_train2017.json")
    transform = build_train_transform(preset, image_size=input_size, mean=(127, 127, 127))
    dataset = CocoDetection([(index, root / "train2017")], transform=transform)
    if cache != "none":
        dataset.cache = build_image_cache(
            cache, dataset.sizes, input_size=input_size, folder=folder or root
        )
    return dataset


def main(argv: list[str]) -> int:
    """Fill the cache, make the file READY, and end when it is gone again."""
    root, kind, folder, ready = argv
    os.setsid()  # the workers and this process can be killed as one group
    loader = DetectionLoader(
        build_dataset(Path(root), kind, folder=Path(folder)),
        batch_size=3,
        num_workers=2,
        shuffle=True,
    )
    list(loader)
    Path(ready).touch()
    while Path(ready).exists():
        time.sleep(0.02)
    return 0
