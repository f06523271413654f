"""Small YOLO folders for the tests."""

from pathlib import Path

import msgspec
from PIL import Image

from vision.datasets.yolo import YoloSplit
from vision.datasets.yolo_export import coco_of

BOX = "0 0.5 0.5 0.5 0.5"  # in an image of 100 x 50: x 25, y 12.5, width 50, height 25


def write_image(path: Path, *, width: int = 100, height: int = 50, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)
    return path


def make_folder(root: Path, labels: dict[str, str | None], *, split: str = "val") -> Path:
    """images/, labels/, classes.txt and one split of relative paths."""
    for name, rows in labels.items():
        write_image(root / "images" / name)
        if rows is not None:
            label_file = (root / "labels" / name).with_suffix(".txt")
            label_file.parent.mkdir(parents=True, exist_ok=True)
            label_file.write_text(rows)
    (root / "classes.txt").write_text("cat\ndog\nbird\n")
    (root / "splits").mkdir(exist_ok=True)
    lines = "".join(f"images/{name}\n" for name in labels)
    (root / "splits" / f"{split}.txt").write_text(lines, encoding="utf-8")
    return root


def as_coco(split: YoloSplit) -> dict:
    """What convert_yolo_to_coco.py writes of a split, as plain dicts and lists."""
    return msgspec.to_builtins(coco_of(split))
