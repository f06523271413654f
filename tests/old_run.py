"""Runs written by an older version of the toolkit: the drawn data, and how they were made.

    python tests/old_run.py OLD_CHECKOUT WORK_FOLDER tests/fixtures

Run it with the old version's Python packages. It trains two small runs with OLD_CHECKOUT's
train_ssd.py, stops each inside its second epoch, and writes what is needed to tests/fixtures.
Networks start from weights that repeat every four channels and train their heads alone, so that a
checkpoint of megabytes compresses to kilobytes.
"""

import io
import json
import lzma
import math
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np

NAMES = ("square", "cross")
NUM_IMAGES = {"train": 6, "val": 4}
RECIPE = [
    *("--image-size=96", "--mb2-width-mult=0.25", "--epochs=2", "--batch-size=2", "--workers=0"),
    *("--threads=1", "--precision=fp32", "--freeze-net", "--ema=0.9", "--optimizer=sgd"),
    *("--warmup-epochs=0.5", "--scheduler=cosine", "--seed=3"),
]
RUNS = {  # network: layout of the data, and a rate at which the repeating weights learn
    "mb2-ssd-lite": ("coco", 0.002),
    "mb2-ssd": ("yolo", 0.0002),
}
STOP_AT_STEP = 5  # of six, three an epoch
ROWS_APART = 13  # of the priors whose output is kept


def draw_data(root: Path, layout: str) -> Path:
    """Draw the images, and write their boxes as COCO files or as a YOLO folder.

    PNG, so that every decoder gives the same pixels.
    """
    rng = np.random.default_rng(0)
    for split, count in NUM_IMAGES.items():
        images, boxes = [], []
        for number in range(1, count + 1):
            pixels, found = _draw_image(rng)
            folder = root / ("images" if layout == "yolo" else split)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{split}_{number}.png"
            cv2.imwrite(str(folder / name), pixels)
            images.append({"id": number, "file_name": name, "height": 120, "width": 160})
            boxes += [(number, *box) for box in found]
        (_write_yolo if layout == "yolo" else _write_coco)(root, split, images, boxes)
    return root


def _draw_image(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple]]:
    """Draw one image; return it with its boxes (class, x, y, width, height)."""
    pixels = np.full((120, 160, 3), rng.integers(90, 200), np.uint8)
    pixels[::8] = rng.integers(0, 256, 3)
    boxes = []
    for left in (4, 84):
        width, height = (int(side) for side in rng.integers(24, 72, 2))
        x, y, kind = left, int(rng.integers(0, 120 - height)), int(rng.integers(2))
        color = rng.integers(0, 256, 3)
        if kind == 0:
            pixels[y : y + height, x : x + width] = color
        else:
            pixels[y + height // 3 : y + 2 * height // 3, x : x + width] = color
            pixels[y : y + height, x + width // 3 : x + 2 * width // 3] = color
        boxes.append((kind, x, y, width, height))
    return pixels, boxes


def _write_coco(root: Path, split: str, images: list[dict], boxes: list[tuple]) -> None:
    content = {
        "images": images,
        "annotations": [
            {"id": i, "image_id": image, "category_id": 5 * kind + 2, "bbox": box, "iscrowd": 0,
             "area": box[2] * box[3]}
            for i, (image, kind, *box) in enumerate(boxes, 1)
        ],
        "categories": [{"id": 5 * i + 2, "name": name} for i, name in enumerate(NAMES)],
    }  # fmt: skip
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def _write_yolo(root: Path, split: str, images: list[dict], boxes: list[tuple]) -> None:
    for folder in ("labels", "splits"):
        (root / folder).mkdir(exist_ok=True)
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    names = [image["file_name"] for image in images]
    (root / f"splits/{split}.txt").write_text("".join(f"images/{name}\n" for name in names))
    for image in images:
        rows = [
            f"{kind} {(x + w / 2) / 160} {(y + h / 2) / 120} {w / 160} {h / 120}\n"
            for number, kind, x, y, w, h in boxes
            if number == image["id"]
        ]
        path = root / "labels" / image["file_name"]
        path.with_suffix(".txt").write_text("".join(rows))


def repeating_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Make weights that repeat every four channels; BatchNorm's statistics come later."""
    weights = {}
    for number, (key, shape) in enumerate(sorted(shapes.items())):
        rng = np.random.default_rng(number)
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif len(shape) == 4:
            out_channels, in_channels, *kernel = shape
            pattern = rng.standard_normal((4, min(4, in_channels), *kernel))
            tiled = pattern[np.arange(out_channels) % 4][:, np.arange(in_channels) % 4]
            copies = max(1, in_channels / 4)
            value = tiled * math.sqrt(2 / pattern[0].size) / copies
            value *= 0.1 if "headers" in key else 1  # so that training goes gently
        else:
            low, high = (0.8, 1.2) if key.endswith("weight") else (0.0, 0.2)
            value = rng.uniform(low, high, 4)[np.arange(shape[0]) % 4]
        weights[key] = value if value.dtype == np.int64 else value.astype(np.float32)
    return weights


def images_for_inference() -> np.ndarray:
    """The network's input, [2, 3, 96, 96] float32 in -1..1."""
    images = np.random.default_rng(1).uniform(-1, 1, (2, 3, 12, 12))
    return images.repeat(8, axis=2).repeat(8, axis=3).astype(np.float32)


# ---- making the fixture, in the old version


def main() -> None:
    """Make all runs."""
    checkout, work, fixtures = (Path(path).resolve() for path in sys.argv[1:])
    sys.path.insert(0, str(checkout))
    facts = {net: make_run(net, checkout, work / net, fixtures) for net in RUNS}
    (fixtures / "old_runs.json").write_text(json.dumps(facts) + "\n")


def make_run(net: str, checkout: Path, work: Path, fixtures: Path) -> dict:
    """Make a run twice, straight and stopped; pack the stopped one, return the facts."""
    layout, lr = RUNS[net]
    data = draw_data(work / "data", layout)
    weights = work / "start.pth"
    _save_weights(net, weights, data)
    start = ["--datasets", data, f"--net={net}", f"--dataset-type={layout}", f"--lr={lr}", *RECIPE]
    start += [f"--pretrained-ssd={weights}", "--checkpoint-folder"]
    _train(checkout, *start, work / "straight")
    _train(checkout, *start, work / "run", stop=True)
    for path in work.glob("run/run.lock"):
        path.unlink()
    _pack(work / "run", fixtures / f"old_run_{net}.tar.xz")
    facts = {"evaluation": _evaluate(checkout, work, data)} if layout == "coco" else {}
    facts |= {"inference": _infer(work / "run"), "at_the_stop": _state_of(work / "run")}
    _train(checkout, "--resume", work / "run")
    ends = [_last_record(work / folder) for folder in ("straight", "run")]
    assert ends[0] == ends[1], "resuming changed a bit in the old version itself"
    return facts | {"last_epoch": ends[0]}


def _save_weights(net: str, path: Path, data: Path) -> None:
    """Save the repeating weights, with BatchNorm's statistics of the training images."""
    import torch

    from vision.ssd.models import build_model

    model = build_model(net, num_classes=3, image_size=(96, 96), width_mult=0.25)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    weights = repeating_weights(shapes)
    model.load_state_dict({key: torch.from_numpy(weights[key]) for key in shapes})

    def set_statistics(norm, inputs):
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), unbiased=False)
        # Rounded, so that channels whose weights repeat are equal to the bit.
        norm.running_mean.copy_((mean * 64).round() / 64)
        norm.running_var.copy_(((var * 64).round() / 64).clamp(min=1 / 64))

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(set_statistics)
    images = np.stack([cv2.imread(str(file)) for file in sorted(data.rglob("train_*.png"))])
    images = torch.from_numpy(images[:, 12:108, 32:128, ::-1].copy()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        model.eval()((images - 127.0) / 128)
    torch.save(dict(model.state_dict()), path)


STOPPER = f"""
import os, signal, sys
import train_ssd
from vision.engine import train
original, calls = train.train_step, []
def train_step(*args, **options):
    calls.append(1)
    if len(calls) == {STOP_AT_STEP}:
        os.kill(os.getpid(), signal.SIGTERM)
    return original(*args, **options)
train.train_step = train_step
sys.exit(train_ssd.main(sys.argv[1:]))
"""


def _train(checkout: Path, *argv: object, stop: bool = False) -> None:
    program = ["-c", STOPPER] if stop else [str(checkout / "train_ssd.py")]
    command = [sys.executable, *program, *map(str, argv)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    code = subprocess.run(command, cwd=checkout, env=environment, check=False).returncode
    assert code == (128 + signal.SIGTERM if stop else 0), code


def _pack(run: Path, archive: Path) -> None:
    """Pack a folder, the same bytes each time; links stay links."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for path in sorted(run.iterdir()):
            info = file.gettarinfo(path, arcname=f"run/{path.name}")
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            with path.open("rb") as source:
                file.addfile(info, source if info.isreg() else None)
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def _infer(run: Path) -> dict:
    import torch
    from vision.engine.load_model import load_for_inference

    model, classes, _ = load_for_inference(run)
    with torch.inference_mode():
        logits, offsets = model(torch.from_numpy(images_for_inference()))
    rows = slice(None, None, ROWS_APART)
    return {
        "classes": classes,
        "cls_logits": [round(x, 6) for x in logits[:, rows].flatten().tolist()],
        "bbox_regression": [round(x, 6) for x in offsets[:, rows].flatten().tolist()],
        "priors_cxcywh": [round(x, 7) for x in model.priors_cxcywh.flatten().tolist()],
    }


def _evaluate(checkout: Path, work: Path, data: Path) -> dict:
    command = [sys.executable, checkout / "eval_ssd.py", "--trained-model", work / "run"]
    command += ["--dataset", data, "--output-dir", work / "eval", "--workers=0"]
    subprocess.run(list(map(str, command)), cwd=checkout, check=True)
    metrics = json.loads((work / "eval/metrics.json").read_text())
    rows = json.loads((work / "eval/detections.json").read_text())
    best = {
        str(image): max(row["score"] for row in rows if row["image_id"] == image)
        for image in range(1, NUM_IMAGES["val"] + 1)
    }
    return {"AP": metrics["AP"], "num_detections": len(rows), "best_scores": best}


def _state_of(run: Path) -> dict:
    import torch

    (path,) = run.glob("checkpoint_epoch_0002_step_*.pt")
    state = torch.load(path, weights_only=True)
    return {key: state[key] for key in ("epoch", "step", "progress", "best")}


def _last_record(run: Path) -> dict:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timings = ("seconds", "images_per_second", "data_wait", "_share", "peak_memory_mb")
    return {k: v for k, v in records[-1].items() if not k.endswith(timings)}


if __name__ == "__main__":
    main()
