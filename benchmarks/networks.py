"""Milliseconds of one image through each network of MODELS, as inference runs it on a CPU.

    python benchmarks/networks.py
    python benchmarks/networks.py --networks mb2-ssd-lite vgg16-ssd --repeats 50

Float32, batch 1, COCO's 80 classes, each at its own input size, in the folded form. The networks
take turns, so that a slow moment of the machine touches all. Prints the median and the range.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from vision.engine.cpu_memory import keep_freed_memory
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ssd.models import MODELS, build_model


def main() -> int:
    """Measure and print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--repeats", type=int, default=20, help="images through each network")
    args = parser.parse_args()
    keep_freed_memory()
    models = {name: prepare(name) for name in args.networks}
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(args.repeats + 2):
        for name, (model, image) in models.items():
            start = time.perf_counter()
            with torch.inference_mode():
                model(image)
            if repeat >= 2:  # the first ones lay out the weights
                times[name].append(1000 * (time.perf_counter() - start))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, found in times.items():
        print(f"{name:22} {median(found):7.1f} ms ({min(found):.1f} to {max(found):.1f})")
    return 0


def prepare(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the network folded for inference, and an image of its input size."""
    model = optimize_for_inference(build_model(name, num_classes=81))
    image = torch.zeros(1, 3, *MODELS[name].image_size)
    layout = torch.channels_last
    return model.to(memory_format=layout), image.to(memory_format=layout)


if __name__ == "__main__":
    raise SystemExit(main())
