"""A run that has learned a few drawn images, for the tests of what becomes of a trained network."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from export_models import TARGETS
from script_runs import FAST, call

CLASSES = ("cup", "lid", "pot")
SIZE = 96
# AP that a file may lose. This network knows its 24 images by heart, and anything moves its AP:
# onnx-int8 by +0.004 to -0.019 over four seeds, and with 0.03 a run of all targets failed once.
# Networks of the blood cells lose 0.004 at most (docs/deployment.md).
MAY_LOSE = {target: 0.05 if target.endswith("-int8") else 0.005 for target in TARGETS}


def draw_images(root: Path, *, count: int = 24) -> None:
    """Write noise with filled boxes of three shades, as a COCO folder whose val is its train."""
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, count + 1):
        pixels = rng.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
        for left in (3, 51):
            width, height = rng.integers(28, 43, 2).tolist()
            x, y = left + int(rng.integers(0, 44 - width)), int(rng.integers(3, 93 - height))
            kind = len(annotations) % len(CLASSES)
            pixels[y : y + height, x : x + width] = np.roll([250, 60, 60], kind)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": kind + 1,
                 "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            )  # fmt: skip
        cv2.imwrite(str(root / f"train/{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    (root / "val").symlink_to("train")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A data set, and a run that was trained on it and finds its objects."""
    root = tmp_path_factory.mktemp("drawn") / "data"
    draw_images(root)
    run = root.with_name("run")
    done = call(
        "train_ssd", "--datasets", root, "--checkpoint-folder", run, *FAST, "--lr=0.008",
        "--batch-size=8", "--epochs=30", "--eval-every=0", "--augmentation=none", "--no-report",
        "--min-precision=0.9", "--keep-last=1",
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    return root, run


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of the files of all targets, and the rows of their table."""
    root, run = trained
    folder = tmp_path_factory.mktemp("files")
    done = call(
        "export_ssd", "--trained-model", run, "--target", *TARGETS, "--dataset", root,
        "--max-drop", 0.2, "--json", "--output-dir", folder,
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    rows = json.loads(done.out)  # no converter has written there
    assert rows == json.loads((folder / "deployment.json").read_text())
    return folder, rows
