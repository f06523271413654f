#!/usr/bin/env python3
"""How long train_ssd.py takes to the AP of pytorch-ssd, and to its own, beside pytorch-ssd's loop.

    python benchmarks/time_to_ap.py --dataset finetune_dataset --base-net mobilenet_v2.pth \
        --output runs/time [--epochs 4] [--peer-epochs 20]

Whole commands by the clock on the wall, from the start of Python to the report: one with
`--epochs`, one without, otherwise with default flags. Between them pytorch-ssd's loop
(family_loop.py) takes an epoch of the same images, and waits while they run; its 20 epochs, the
number whose AP is known, are that times 20, without a validation. All use the cores as they do by
default.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peer_process import peers
from recipes import read_metrics
from training_loop import whole_batches

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import family_loop

from vision.datasets.layouts.choose import open_split
from vision.ssd.models import build_model

ROOT = Path(__file__).resolve().parent.parent
BATCH_SIZE = 16
PEER = "pytorch-ssd's loop"


def main() -> int:
    """Measure in turn, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--base-net", required=True, help="weights of MobileNetV2")
    parser.add_argument("--output", type=Path, required=True, help="a new folder, of the runs")
    parser.add_argument("--net", default="mb2-ssd-lite-fpn")
    parser.add_argument("--epochs", type=int, default=4, help="of the short run")
    parser.add_argument("--peer-epochs", type=int, default=20)
    args = parser.parse_args()
    spins = os.environ.pop("GOMP_SPINCOUNT", None)
    with peers(build_peer, args) as tasks:
        if spins is not None:
            os.environ["GOMP_SPINCOUNT"] = spins
        peer = [time_peer(tasks, args)]
        for name, flags in (("short", ["--epochs", str(args.epochs)]), ("whole", [])):
            seconds = train(args, args.output / name, flags)
            peer.append(time_peer(tasks, args))
            last = read_metrics(args.output / name)[-1]
            share = seconds / statistics.mean(peer)
            print(
                f"{args.net}, {last['epoch']} epochs: AP {last['AP']:.3f} after {seconds:.0f} s, "
                f"{share:.3f} of {PEER} (1/{1 / share:.1f})", flush=True,
            )  # fmt: skip
    return 0


def build_peer(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Return pytorch-ssd's epoch, whose last, smaller batch is left out."""
    source = open_split(args.dataset, "train")
    model = build_model("mb2-ssd-lite", num_classes=len(source.index.categories) + 1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    loader = family_loop.build_loader(source, model.priors_cxcywh, batch_size=BATCH_SIZE)
    batches = whole_batches(loader, BATCH_SIZE)
    num_batches = len(loader.dataset) // BATCH_SIZE

    def take(number: int) -> None:
        for _ in range(number):
            family_loop.family_step(model, optimizer, next(batches))

    return {"warm up": lambda: take(2), PEER: lambda: take(num_batches)}


def time_peer(tasks: dict[str, Callable[[], object]], args: argparse.Namespace) -> float:
    """Return the seconds of all of pytorch-ssd's epochs, by one of them."""
    tasks["warm up"]()
    began = time.perf_counter()
    tasks[PEER]()
    seconds = time.perf_counter() - began
    num_images = len(open_split(args.dataset, "train").index)
    whole = seconds / (num_images // BATCH_SIZE * BATCH_SIZE) * num_images * args.peer_epochs
    speed = num_images * args.peer_epochs / whole
    print(f"{PEER}: {speed:.1f} images/s, {args.peer_epochs} epochs {whole:.0f} s", flush=True)
    return whole


def train(args: argparse.Namespace, run: Path, flags: list[str]) -> float:
    """Train from the command line; return the seconds."""
    command = [sys.executable, str(ROOT / "train_ssd.py"), "--datasets", args.dataset]
    command += ["--base-net", args.base_net, "--net", args.net, "--checkpoint-folder", str(run)]
    command += ["--batch-size", str(BATCH_SIZE), "--image-size", "300", *flags]
    print("$", *command, flush=True)
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
