"""What the tests of --resume share: a tiny recipe, and the comparison of two runs bit by bit."""

import functools
import json
from pathlib import Path

import torch

from vision.runs.checkpoint import read_checkpoint

RECIPE = [
    *("--image-size=96", "--mb2-width-mult=0.25", "--epochs=2", "--batch-size=2", "--workers=0"),
    *("--threads=1", "--precision=fp32", "--ema=0.9", "--optimizer=adamw", "--lr=0.002"),
    *("--warmup-epochs=1", "--scheduler=cosine", "--no-report"),
]
NUM_TRAIN, NUM_VAL = 6, 4
STEPS_PER_EPOCH = 3


def differences(run: Path, reference: Path) -> list[str]:
    """Name everything in which two finished runs differ, timings and configurations aside."""
    found, compared = [], set()
    for name in sorted(path.name for path in reference.glob("checkpoint_*.pt")):
        if "_step_" in name:
            continue
        if not (run / name).is_file():
            found.append(f"{name} is missing")
            continue
        files = tuple((folder / name).stat().st_ino for folder in (run, reference))
        if files in compared:  # other names of the same two files
            continue
        compared.add(files)
        theirs = _read_once(reference / name, (reference / name).stat().st_mtime_ns)
        states = [
            {key: value for key, value in state.items() if key != "config"}
            for state in (read_checkpoint(run / name), theirs)
        ]
        found += _compare(name, *states)
    return found + _compare("metrics", read_metrics(run), read_metrics(reference))


def read_metrics(run: Path) -> list[dict]:
    """Read metrics.jsonl without timings and memory."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timings = ("seconds", "images_per_second", "data_wait", "_share", "peak_memory_mb")
    return [{k: v for k, v in record.items() if not k.endswith(timings)} for record in records]


@functools.lru_cache(maxsize=4)
def _read_once(path: Path, mtime_ns: int) -> dict:
    """Read a checkpoint of a reference, with which many runs are compared."""
    return read_checkpoint(path)


def _compare(where: str, a: object, b: object) -> list[str]:
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: other keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [line for key in a for line in _compare(f"{where}.{key}", a[key], b[key])]
    if isinstance(a, list):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} items"]
        pairs = zip(a, b, strict=True)
        return [line for i, pair in enumerate(pairs) for line in _compare(f"{where}[{i}]", *pair)]
    return [] if a == b else [f"{where}: {a!r} and {b!r}"]
