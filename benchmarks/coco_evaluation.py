#!/usr/bin/env python3
"""COCO's twelve numbers for a result of COCO val's size: ours, faster-coco-eval and pycocotools.

    python benchmarks/coco_evaluation.py [--images 5000] [--repeats 5] [--only ours]

5,000 images, 80 classes, 36,800 objects (some of them crowds) and 480,000 detections, 96 in an
image: objects slightly moved and scaled, and random boxes. Each program runs in a process of its
own, from arrays to numbers; its peak memory includes interpreter and imports. pycocotools runs
once. The full arrays of precision, recall and scores are compared, not only the twelve numbers. The
ratios are of processor time, which other work on the machine affects least; all use one thread.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vision.evaluation.coco_boxes import Detections, GroundTruth
from vision.evaluation.coco_eval import EVALUATORS

NUM_CLASSES = 80
OBJECTS_PER_IMAGE = 7.36
DETECTIONS_PER_IMAGE = 96


def main(argv: list[str] | None = None) -> int:
    """Measure each program in its own process, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=sorted(WAYS), help="run one way in this process")
    parser.add_argument("--output", type=Path, help="with --only: gets the arrays")
    args = parser.parse_args(argv)
    if args.only:
        run_one(args.only, args.images, args.repeats, args.output)
        return 0
    figures, arrays = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            output = Path(folder, f"{way}.npz")
            repeats = 1 if way == "pycocotools" else args.repeats
            command = [sys.executable, __file__, "--only", way, "--output", str(output)]
            command += ["--images", str(args.images), "--repeats", str(repeats)]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            figures[way] = json.loads(line)
            arrays[way] = dict(np.load(output))
            print(describe(way, figures[way]))
    for way in WAYS:
        largest = max(np.abs(arrays[way][key] - arrays["ours"][key]).max() for key in ARRAYS)
        print(f"{way}: largest difference to ours in the arrays {largest:.1e}")
    ours = statistics.median(figures["ours"]["cpu"])
    ratios = [f"{statistics.median(figures[way]['cpu']) / ours:.1f} ({way})" for way in WAYS]
    print(f"processor time over ours: {', '.join(ratios)}")
    return 0


def describe(way: str, figures: dict) -> str:
    """Format the figures of one program."""
    wall, cpu = figures["wall"], figures["cpu"]
    return (
        f"{way:16} {statistics.median(wall):6.2f} s, {statistics.median(cpu):6.2f} s of processor "
        f"time ({min(cpu):.2f} to {max(cpu):.2f}, n {len(cpu)}), peak {figures['peak_mb']:.0f} MB, "
        f"of which input and imports {figures['start_mb']:.0f}"
    )


def run_one(way: str, images: int, repeats: int, output: Path | None) -> None:
    """Evaluate `repeats` times; print seconds and megabytes as JSON."""
    truth, detections = build_case(images)
    start_mb = peak_mb()
    wall, cpu = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        arrays = WAYS[way](truth, detections)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    if output:
        np.savez(output, **dict(zip(ARRAYS, arrays, strict=True)))
    figures = {"wall": wall, "cpu": cpu, "start_mb": start_mb, "peak_mb": peak_mb()}
    print(json.dumps(figures))


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def build_case(num_images: int) -> tuple[GroundTruth, Detections]:
    """Draw ground truth and detections, the same for every process."""
    rng = np.random.default_rng(0)
    num_objects = round(num_images * OBJECTS_PER_IMAGE)
    sides = np.exp(rng.normal(4, 1, (num_objects, 2))).clip(4, 500)
    boxes = np.concatenate([rng.random((num_objects, 2)) * (640 - sides), sides], axis=1)
    image_index = np.sort(rng.integers(0, num_images, num_objects))
    truth = GroundTruth(
        num_images=num_images,
        num_classes=NUM_CLASSES,
        image_index=image_index,
        labels=rng.zipf(1.3, num_objects) % NUM_CLASSES + 1,  # as skewed as COCO's classes
        boxes_xywh=boxes,
        areas=0.6 * sides.prod(axis=1),
        iscrowd=rng.random(num_objects) < 0.01,
    )
    found_in = np.repeat(np.arange(num_images), DETECTIONS_PER_IMAGE)
    first = np.searchsorted(image_index, np.arange(num_images + 1))
    count = np.diff(first)[found_in]
    source = first[found_in] + (rng.random(len(found_in)) * count.clip(1)).astype(int)
    source = source.clip(max=num_objects - 1)
    near = boxes[source] + rng.normal(0, 0.15, (len(source), 4)) * np.tile(boxes[source, 2:], 2)
    near[:, 2:] = near[:, 2:].clip(1)
    guess = rng.integers(1, NUM_CLASSES + 1, len(source))
    detections = Detections(
        image_index=found_in,
        labels=np.where(rng.random(len(source)) < 0.6, truth.labels[source], guess),
        boxes_xywh=near,
        scores=rng.random(len(source), np.float32).astype(float),
    )
    return truth, detections


def with_faster_coco_eval(truth: GroundTruth, found: Detections) -> tuple[np.ndarray, ...]:
    """The peer; its objects are built in the fastest way that its interface allows."""
    from faster_coco_eval import COCO, COCOeval_faster

    rows = zip(
        truth.image_index.tolist(), truth.labels.tolist(), truth.boxes_xywh.tolist(),
        truth.areas.tolist(), truth.iscrowd.astype(int).tolist(), strict=True,
    )  # fmt: skip
    coco = {
        "images": [{"id": i} for i in range(truth.num_images)],
        "categories": [{"id": k} for k in range(1, truth.num_classes + 1)],
        "annotations": [
            {"id": i, "image_id": m, "category_id": k, "bbox": b, "area": a, "iscrowd": c}
            for i, (m, k, b, a, c) in enumerate(rows, start=1)
        ],
    }
    areas = found.boxes_xywh[:, 2] * found.boxes_xywh[:, 3]
    rows = zip(
        found.image_index.tolist(), found.labels.tolist(), found.boxes_xywh.tolist(),
        areas.tolist(), found.scores.tolist(), strict=True,
    )  # fmt: skip
    annotations = [
        {"id": i, "image_id": m, "category_id": k, "bbox": b, "area": a, "iscrowd": 0, "score": s}
        for i, (m, k, b, a, s) in enumerate(rows, start=1)
    ]
    evaluator = COCOeval_faster(COCO(coco), COCO({**coco, "annotations": annotations}), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return tuple(evaluator.eval[name] for name in ARRAYS)


ARRAYS = ("precision", "recall", "scores")
WAYS = {
    "ours": EVALUATORS["fast"],
    "faster-coco-eval": with_faster_coco_eval,
    "pycocotools": EVALUATORS["pycocotools"],
}


if __name__ == "__main__":
    raise SystemExit(main())
