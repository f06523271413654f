"""A mirror with a COCO of a dozen images: the folders and zips that coco_downloader.py expects."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

CATEGORIES = [
    {"id": i, "name": n, "supercategory": "x"} for i, n in ((1, "a"), (3, "b"), (90, "c"))
]
NUM_IMAGES = {"train": 6, "val": 3, "test": 2}
ZIPS = (
    "zips/train2017.zip",
    "zips/val2017.zip",
    "zips/test2017.zip",
    "annotations/annotations_trainval2017.zip",
    "annotations/image_info_test2017.zip",
)


def make_mirror(folder: Path) -> dict[str, bytes]:
    """Write the five zips under `folder`; returns the files in them by name."""
    files: dict[str, dict[str, bytes]] = {name: {} for name in ZIPS}
    for split, count in NUM_IMAGES.items():
        images = [_image(split, number) for number in range(count)]
        for entry, jpeg in images:
            files[f"zips/{split}2017.zip"][f"{split}2017/{entry['file_name']}"] = jpeg
        kind, target = ("image_info", ZIPS[4]) if split == "test" else ("instances", ZIPS[3])
        files[target][f"annotations/{kind}_{split}2017.json"] = _annotations(images, split)
    for name, members in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    return {name: data for members in files.values() for name, data in members.items()}


def _image(split: str, number: int) -> tuple[dict, bytes]:
    generator = np.random.default_rng([len(split), number])
    pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image_id = 9 + 16 * number
    entry = {"id": image_id, "file_name": f"{image_id:012}.jpg", "height": 48, "width": 64}
    return entry, cv2.imencode(".jpg", pixels)[1].tobytes()


def _annotations(images: list[tuple[dict, bytes]], split: str) -> bytes:
    entries = [entry for entry, _ in images]
    found = {"info": {}, "images": entries, "categories": CATEGORIES}
    if split != "test":
        found["annotations"] = [
            {
                "id": number + 1,
                "image_id": entry["id"],
                "category_id": CATEGORIES[number % 3]["id"],
                "bbox": [4.5, 5.0, 20.25, 30.0],
                "area": 607.5,
                "iscrowd": 0,
                "segmentation": [[4.5, 5.0, 24.75, 5.0, 24.75, 35.0, 4.5, 35.0]],
            }
            for number, entry in enumerate(entries)
        ]
    return json.dumps(found).encode()
