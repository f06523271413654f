#!/usr/bin/env python3
"""Exported files of a network on the CPU, beside the bare network in onnxruntime, and torch.

    python benchmarks/deploy.py [--net mb1-ssd-lite] [--num-classes 80] [--repeats 40]
        [--threads 1] [--clock wall]

One image at the network's own size, all in turn in one run. Weights are random, with BatchNorm
statistics of random pixels: without them values shrink from layer to layer, and int8 has nothing to
hold. The bare network is the same graph without softmax, boxes and suppression. What counts is the
time as a share of the bare network's in the same round (median), and the least time as a share of
its least, which other work on the machine disturbs less. It is processor time, of all threads;
--clock wall takes the clock on the wall.

Then a video of 640x480: what run_ssd_example.py takes for a frame with --json, beside what
decoding, the resize and the network take alone.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from interleaved import measure
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import run_ssd_example
from vision.deploy import Detector
from vision.deploy.detect import FileDetector
from vision.deploy.export import ExportOptions, build_export
from vision.deploy.frames import VideoFile
from vision.deploy.onnx_file import export_onnx
from vision.deploy.outputs import JsonLines, open_text
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ssd.models import MODELS, build_model
from vision.ssd.ssd import SSD

BARE = "bare network"
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
FILES = ("onnx", "onnx-int8", "openvino", "openvino-int8")
if find_spec("litert_torch"):
    FILES += ("tflite", "tflite-int8")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", default="mb2-ssd-lite", choices=sorted(MODELS))
    parser.add_argument("--num-classes", type=int, default=3, help="without the background")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="processor")
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # onnxruntime's, about the quantization
    clock = CLOCKS[args.clock]
    torch.manual_seed(0)
    model = build_model(args.net, num_classes=args.num_classes + 1)
    seconds = measure(build_tasks(model, args.threads), args.repeats, clock=clock)
    print(
        f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, "
        f"{args.threads} threads, {args.clock} time"
    )
    for name, values in seconds.items():
        shares = [value / bare for value, bare in zip(values, seconds[BARE], strict=True)]
        print(
            f"{name:22} {statistics.median(values) * 1e3:6.1f} ms  "
            f"{statistics.median(shares):5.3f} of the bare network, least by least "
            f"{min(values) / min(seconds[BARE]):5.3f}"
        )
    found = measure_video(model, args.repeats // 4 + 1, clock)
    alone, whole = map(statistics.median, found.values())
    print(f"a frame of a video     {whole * 1e3:6.1f} ms  {whole / alone:5.3f} of its parts alone")
    return 0


def measure_video(model: SSD, repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Time a frame of a video, for its parts and for run_ssd_example.py."""
    import cv2

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size, num_frames = (640, 480), 30
        codec = cv2.VideoWriter_fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(folder / "clip.avi"), codec, 25, size)
        coarse = np.random.default_rng(0).integers(0, 256, (num_frames, 12, 16, 3), np.uint8)
        for pixels in coarse:
            writer.write(cv2.resize(pixels, size))
        writer.release()
        file = build_export(
            "onnx", model, classes_of(model), ExportOptions(), trained_model="benchmark"
        ).write(folder)
        detector = FileDetector(file, threads=1)
        script = Detector(detector)
        flags = ["--trained-model", str(file), "--json", str(folder / "found"), "clip.avi"]
        args = run_ssd_example.build_parser().parse_args(flags)

        def alone() -> None:
            for frame in VideoFile(folder / "clip.avi"):
                detector.raw(detector.resize(frame.pixels)[None])

        def whole() -> None:
            source, output = VideoFile(folder / "clip.avi"), JsonLines(open_text(args.json))
            run_ssd_example.detect_in(source, script, [output], args, set(), lambda line: None)
            output.close()

        found = measure({"alone": alone, "whole": whole}, repeats, clock=clock)
    return {name: [value / num_frames for value in values] for name, values in found.items()}


def classes_of(model: SSD) -> list[dict]:
    """Return classes for the file, as a checkpoint has them."""
    return [
        {"label": i, "category_id": i, "original_category_id": i, "name": f"class {i}"}
        for i in range(1, model.num_classes)
    ]


def build_tasks(model: SSD, threads: int) -> dict:
    """Return what to time, by name."""
    torch.set_num_threads(threads)
    pixels = np.random.default_rng(0).integers(0, 256, (16, *model.image_size, 3), np.uint8)
    inputs = torch.from_numpy(pixels[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    take_statistics(model, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    bare = export_onnx(
        Bare(model), inputs, input_name="x", output_names=["cls_logits", "bbox_regression"]
    )
    plain = ExportOptions()
    # Random weights say nothing about which layers to keep float; of trained networks none is.
    int8 = ExportOptions(calibration=list(pixels), keep_float=())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(bare.SerializeToString(), options)
    tasks = {
        BARE: partial(session.run, None, {"x": inputs.numpy()}),
        "jetson --plain": file_task(model, "jetson", inputs, ExportOptions(plain=True), threads),
        "jetson": file_task(model, "jetson", inputs, ExportOptions(), threads),
    }
    for target in FILES:
        chosen = int8 if target.endswith("int8") else plain
        tasks[target] = file_task(model, target, pixels[:1], chosen, threads)
    tasks["onnx, in detect.py"] = file_task(
        model, "onnx", pixels[0], ExportOptions(), threads, whole=True
    )
    folded = optimize_for_inference(model).to(memory_format=torch.channels_last)
    channels_last = inputs.to(memory_format=torch.channels_last)
    tasks["torch, folded"] = torch.inference_mode()(partial(folded, channels_last))
    return tasks


def file_task(
    model: SSD,
    target: str,
    inputs: np.ndarray | Tensor,
    options: ExportOptions,
    threads: int,
    *,
    whole: bool = False,
) -> Callable[[], object]:
    """Return a call that runs the file of a target; `whole`: from an image to named boxes."""
    export = build_export(target, model, classes_of(model), options, trained_model="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        detector = FileDetector(export.write(Path(folder)), threads=threads)
    return partial(detector.predict if whole else detector.raw, np.asarray(inputs))


@torch.no_grad()
def take_statistics(model: SSD, images: Tensor) -> None:
    """Give BatchNorm the statistics of a batch; leaves the network in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)
    model.eval()


class Bare(nn.Module):
    """The network alone."""

    def __init__(self, model: SSD):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images [B, 3, H, W] to cls_logits and bbox_regression."""
        return self.model(images)


if __name__ == "__main__":
    raise SystemExit(main())
