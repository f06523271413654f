#!/usr/bin/env python3
"""Bootstrap intervals of a result of COCO val's size: time and memory.

    python benchmarks/bootstrap.py [--images 5000] [--resamples 500]

5,000 images, 80 classes and 480,000 detections, as coco_evaluation.py makes them. Matching is done
once; every resample gives the twelve numbers and each class's AP. The peer is the same program
without the trick: one evaluation for each resample, of which one is timed.
"""

import argparse
import os
import time

from coco_evaluation import build_case, peak_mb

from vision.evaluation.bootstrap import NUM_RESAMPLES, draw_weights, interval, resample
from vision.evaluation.coco_arrays import accumulate, match_boxes


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--resamples", type=int, default=NUM_RESAMPLES)
    args = parser.parse_args(argv)
    ground_truth, detections = build_case(args.images)
    start_mb = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    matches = match_boxes(ground_truth, detections)
    matched = time.perf_counter() - wall
    accumulate(matches)
    once = time.perf_counter() - wall
    wall, cpu = time.perf_counter(), time.process_time()
    weights = draw_weights(args.images, num_resamples=args.resamples)
    low, high = interval(resample(matches, weights).metrics["AP"])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{args.images} images, {len(detections)} detections, {args.resamples} resamples: "
        f"{wall:.1f} s, {cpu:.1f} s of processor time on {os.cpu_count()} cores (matching "
        f"{matched:.1f} s, one evaluation {once:.1f} s before); AP {low:.4f} to {high:.4f}; peak "
        f"{peak_mb():.0f} MB, of which input and imports {start_mb:.0f}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
