"""The cost of saving for training: seconds for each save, bytes of a checkpoint.

    python benchmarks/checkpoint_cost.py --folder /path/on/the/disk/of/your/runs

The state is that of mb2-ssd-lite with 80 classes, AdamW and averaged weights, after one step. The
cost is the time that `RunSaver` stops the training loop, and the time by which steps are slower
while a checkpoint is written. The peer, torch.save in the loop, is measured in the same run; it
computes no digest and does not wait for the disk. The last line is the cost as a share of an epoch
of --images images at the measured speed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vision.engine.ema import ModelEma  # noqa: E402
from vision.engine.optim import Schedule, build_optimizer  # noqa: E402
from vision.engine.state import TrainingState  # noqa: E402
from vision.engine.step import StepOptions, train_step  # noqa: E402
from vision.nn.cpu.optimize import optimize_for_training  # noqa: E402
from vision.runs.checkpoint import epoch_path  # noqa: E402
from vision.runs.checkpoint_writer import CheckpointWriter  # noqa: E402
from vision.ssd.loss import MultiBoxLoss  # noqa: E402
from vision.ssd.models import build_model  # noqa: E402


def make_step(batch_size: int) -> tuple[TrainingState, Callable[[], None]]:
    """Return a state, and a function that takes a training step with it."""
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=81).to(memory_format=torch.channels_last)
    optimize_for_training(model)
    state = TrainingState(
        model,
        build_optimizer("adamw", model, lr=0.002, weight_decay=5e-4),
        Schedule("none", total_steps=100),
        torch.amp.GradScaler("cpu", enabled=False),
        ModelEma(model, decay=0.999),
    )
    loss_fn = MultiBoxLoss(
        model.priors_cxcywh, image_size=model.image_size, iou_threshold=0.5, neg_pos_ratio=3.0
    )
    images = torch.randint(0, 256, (batch_size, 3, *model.image_size), dtype=torch.uint8)
    target = {
        "boxes": torch.tensor([[30.0, 30.0, 200.0, 220.0]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
    }
    options = StepOptions(torch.device("cpu"), "fp32")
    return state, lambda: train_step(state, images, [target] * batch_size, loss_fn, options=options)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N")
    parser.add_argument("--images", type=int, default=118_287, metavar="N", help="of an epoch")
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    args = parser.parse_args(argv)
    state, step = make_step(args.batch_size)
    step()
    alone = statistics.median(seconds(step) for _ in range(args.repeats))
    content = partial(state.state_dict, config={}, classes=[])
    calls, slowdowns, peers = [], [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        path = epoch_path(Path(name), 1)
        writer = CheckpointWriter()
        for _ in range(args.repeats):
            calls.append(seconds(lambda: writer.save(content(), path)))
            slowdowns.append(_extra(step, alone, writer))
            peers.append(seconds(lambda: torch.save(content(), path.with_name("peer.pt"))))
    call, extra = statistics.median(calls), statistics.median(slowdowns)
    epoch = args.images / args.batch_size * alone
    print(f"bytes per checkpoint: {writer.last_size}")
    print(f"step of {args.batch_size} images: {alone * 1e3:.0f} ms, n = {args.repeats}")
    print(
        f"call that copies the state: {call * 1e3:.1f} ms; steps meanwhile: +{extra * 1e3:.1f} ms"
    )
    print(f"torch.save in the loop: {statistics.median(peers) * 1e3:.1f} ms")
    print(f"an epoch of {args.images} images: {epoch:.0f} s")
    print(f"stall per save: {call + extra:.4f} s = {(call + extra) / epoch:.5%} of an epoch")
    return 0


def _extra(step: Callable[[], None], alone: float, writer: CheckpointWriter) -> float:
    """Return how much longer the steps during a write take than steps without one, in seconds."""
    extra = 0.0
    while writer.is_busy:
        extra += seconds(step) - alone
    writer.join()
    return extra


if __name__ == "__main__":
    raise SystemExit(main())
