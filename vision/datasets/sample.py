"""Draws a small data set of coloured shapes in COCO's layout, for a first try and for tests:

python -m vision.datasets.sample --path sample-data
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import cv2
import numpy as np

from vision.datasets.sample_drawing import SHAPE_CLASSES, DrawnShape, draw_crowd, draw_image
from vision.files.atomic_file import write_atomically
from vision.files.guarded import read_regular
from vision.files.structured_text import read_json, reading

log = logging.getLogger(__name__)

CATEGORY_IDS = (1, 2, 4, 9)  # with gaps, as in COCO
_SPLITS = {"train": 0, "val": 1}
_JPEG_QUALITY = 92
# Special images in each split: their index modulo 20.
_GRAYSCALE, _CROWD, _EMPTY = 1, 2, 3


def write_sample_dataset(
    root: str | Path,
    *,
    num_train: int = 200,
    num_val: int = 40,
    seed: int = 0,
    image_size: tuple[int, int] = (480, 640),
) -> list[str]:
    """Draw the splits that `root` does not have yet; the result depends on the arguments alone.

    A split's annotation file is written last, so a split with that file is complete and is not
    changed. Images that an interrupted run has drawn have the same bytes, and are kept.

    Args:
        root: folder for annotations/, train2017/ and val2017/; it is made if missing.
        num_train: number of train images; with 4 or more there is one of each special kind.
        num_val: number of val images; likewise.
        seed: 0 or more.
        image_size: (height, width) in pixels.

    Returns:
        The names of the splits written now; empty if both were complete.

    Raises:
        ValueError: an image of a complete split is missing, or a file of that name with other
            content is there already.
        OSError: the folder is not writable.
    """
    written = []
    for split, num_images in (("train", num_train), ("val", num_val)):
        folder = Path(root) / f"{split}2017"
        annotation_file = Path(root) / "annotations" / f"instances_{split}2017.json"
        if annotation_file.exists():
            _check_complete(annotation_file, folder)
            log.info("%s is complete and is left as it is", annotation_file)
            continue
        _write_split(annotation_file, folder, num_images, (seed, _SPLITS[split]), image_size)
        written.append(split)
    return written


def _check_complete(annotation_file: Path, folder: Path) -> None:
    with reading(annotation_file):
        names = [image["file_name"] for image in read_json(annotation_file)["images"]]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder / missing[0]}: missing, as are {len(missing) - 1} more of the {len(names)} "
            f"images in {annotation_file}; choose another folder, or remove this one's files"
        )


def _write_split(
    annotation_file: Path,
    folder: Path,
    num_images: int,
    seed: tuple[int, int],
    image_size: tuple[int, int],
) -> None:
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    # As in COCO, image ids have gaps, and no id is in both splits: odd ones train, even ones val.
    gaps = np.random.default_rng(seed).integers(1, 1400, num_images)
    image_ids = (2 * np.cumsum(gaps) + 1 + seed[1]).tolist()
    images, annotations = [], []
    for i, image_id in enumerate(image_ids):
        rng = np.random.default_rng((*seed, i))
        pixels, objects = _draw(i % 20, image_size, image_id, rng)
        images.append(_image_entry(image_id, image_size))
        _write_jpeg(folder / images[-1]["file_name"], pixels)
        annotations += objects
    for number, annotation in enumerate(a for a in annotations if "id" not in a):
        annotation["id"] = 1000 * (1 + seed[1]) + 3 * number
    content = _file_content(images, annotations)
    write_atomically(annotation_file, json.dumps(content).encode())


def _file_content(images: list[dict], annotations: list[dict]) -> dict:
    return {
        "info": {
            "description": "Drawn shapes in COCO's layout",
            "url": "",
            "version": "1.0",
            "year": 2017,
            "contributor": "vision/datasets/sample.py",
            "date_created": "2017/09/01",
        },
        "licenses": [{"id": 1, "name": "MIT License", "url": "https://opensource.org/license/mit"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"supercategory": "shape", "id": category_id, "name": shape.name}
            for category_id, shape in zip(CATEGORY_IDS, SHAPE_CLASSES, strict=True)
        ],
    }


def _draw(
    kind: int, image_size: tuple[int, int], image_id: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[dict]]:
    """Draw one image: its pixels [H, W, 3] or [H, W], and its annotations."""
    if kind == _CROWD:
        pixels, class_index, mask = draw_crowd(image_size, rng)
        return pixels, [_crowd_annotation(mask, class_index, image_id)]
    num_shapes = 0 if kind == _EMPTY else int(np.clip(rng.geometric(0.28), 1, 8))
    pixels, shapes = draw_image(image_size, num_shapes, rng)
    if kind == _GRAYSCALE:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    annotations = [_annotation(shape, image_id) for shape in shapes]
    return pixels, [annotation for annotation in annotations if annotation]


def _image_entry(image_id: int, image_size: tuple[int, int]) -> dict:
    return {
        "license": 1,
        "file_name": f"{image_id:012d}.jpg",
        "coco_url": "",
        "height": image_size[0],
        "width": image_size[1],
        "date_captured": "2017-09-01 12:00:00",
        "flickr_url": "",
        "id": image_id,
    }


def _annotation(shape: DrawnShape, image_id: int) -> dict | None:
    """Make COCO's annotation of the visible part of a shape: polygons, their area, bounding box.

    Very small parts are left out; None if no part is left, which happens in very small images only.
    """
    contours, _ = cv2.findContours(
        shape.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    least_area = 0.02 * shape.num_pixels
    outlines = [cv2.approxPolyDP(c, 0.8, True) for c in contours if cv2.contourArea(c) > least_area]
    outlines = [outline for outline in outlines if len(outline) >= 3]
    if not outlines:
        return None
    x, y, width, height = cv2.boundingRect(np.concatenate(outlines))
    return {
        "segmentation": [outline.ravel().astype(float).tolist() for outline in outlines],
        "area": float(shape.mask[y : y + height, x : x + width].sum()),
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [float(side) for side in (x, y, width, height)],
        "category_id": CATEGORY_IDS[shape.class_index],
    }


def _crowd_annotation(mask: np.ndarray, class_index: int, image_id: int) -> dict:
    """Make a crowd annotation: run lengths instead of polygons, and an id as COCO's crowds have."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return {
        "segmentation": {"counts": counts, "size": list(mask.shape)},
        "area": float(mask.sum()),
        "iscrowd": 1,
        "image_id": image_id,
        "bbox": [float(side) for side in cv2.boundingRect(mask.astype(np.uint8))],
        "category_id": CATEGORY_IDS[class_index],
        "id": 900_100_000_000 + image_id,
    }


def _write_jpeg(path: Path, pixels: np.ndarray) -> None:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    content = encoded.tobytes()
    if not path.exists():
        write_atomically(path, content)
    elif read_regular(path) != content:
        raise ValueError(f"{path}: not an image of this sample data set; choose another folder")


def main(argv: list[str] | None = None) -> int:
    """Draw the data set; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw a small data set in COCO's layout.")
    parser.add_argument("--path", required=True, help="folder to draw into")
    parser.add_argument("--num-train", type=int, default=200, metavar="N",
        help="images of the train split (default %(default)s)")  # fmt: skip
    parser.add_argument("--num-val", type=int, default=40, metavar="N",
        help="images of the val split (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N",
        help="of the drawing (default %(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    if min(args.num_train, args.num_val) < 1 or args.seed < 0:
        parser.error("--num-train and --num-val must be at least 1, and --seed at least 0")
    try:
        written = write_sample_dataset(
            args.path, num_train=args.num_train, num_val=args.num_val, seed=args.seed
        )
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split in _SPLITS:
        state = "drawn" if split in written else "already complete, left as it is"
        print(f"{Path(args.path) / (split + '2017')}: {state}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
