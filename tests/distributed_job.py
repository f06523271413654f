"""What tests run in one process and in several: training steps and a validation, in float64.

    torchrun --nproc_per_node=3 tests/distributed_job.py DATA NUM_IMAGES OUTPUT

Float64, because the gradient of a fresh network has too little precision in float32 to tell a
mistake from rounding. OUTPUT gets what the first process ends with.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from vision.datasets.coco import CocoDetection
from vision.datasets.layouts.choose import open_split
from vision.datasets.loader import DetectionLoader
from vision.engine import distributed, step
from vision.engine.optim import build_optimizer
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.evaluation import inference
from vision.evaluation.coco_boxes import ground_truth_from_index
from vision.evaluation.evaluate import evaluate
from vision.nn.sync_batch_norm import synchronize_batch_norm
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model
from vision.transforms.normalize import normalize_images
from vision.transforms.presets import build_eval_transform, build_train_transform

SIZE = (96, 96)
CPU = torch.device("cpu")


def train_and_validate(data: str, num_images: int) -> dict:
    """Train an epoch in batches of six images with SGD, and validate."""
    model = build_model("mb2-ssd-lite", num_classes=5, image_size=SIZE, width_mult=0.25).double()
    loss_fn = MultiBoxLoss(model.priors_cxcywh.float(), image_size=SIZE)
    if distributed.world_size() > 1:
        synchronize_batch_norm(model)
    before = validate(model, loss_fn, data)
    model.train()
    optimizer = build_optimizer("sgd", model, lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, None, scaler)
    train = CocoDetection(
        [open_split(data, "train")],
        transform=build_train_transform("ssd", image_size=SIZE, mean=0),
        image_indices=np.arange(num_images),
    )
    loader = DetectionLoader(
        train,
        batch_size=6,
        num_workers=0,
        shuffle=True,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    steps = []
    for batch, (images, targets) in enumerate(loader):
        values, _ = train_step(
            state,
            images,
            targets,
            loss_fn,
            options=StepOptions(CPU, "fp32", clip_grad_norm=5.0),
            is_padding=loader.sampler.is_padding(batch),
        )
        steps.append(values)
    return {
        "before": before,
        "steps": steps,
        "model": model.state_dict(),
        "after": validate(model, loss_fn, data),
    }


def validate(model: torch.nn.Module, loss_fn: MultiBoxLoss, data: str) -> dict | None:
    """Measure the model on the val split, in the first process."""
    source = open_split(data, "val")
    distributed.broadcast_buffers(model)
    loader = DetectionLoader(
        CocoDetection([source], transform=build_eval_transform(SIZE)),
        batch_size=3,
        num_workers=0,
        shuffle=False,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    result = evaluate(
        model,
        loader,
        ground_truth=ground_truth_from_index(source.index),
        class_names=["a", "b", "c", "d"],
        device=CPU,
        loss_fn=loss_fn,
    )
    if result is None:
        return None
    scores = {f"score {i}": score for i, score in enumerate(result.detections.scores.tolist())}
    return scores | {k: v for k, v in result.as_record().items() if v and "seconds" not in k}


def run_job(data: str, num_images: int) -> dict:
    """Do it in float64, on one thread, from fixed weights."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for module in (step, inference):
        module.normalize_images = lambda images, **options: normalize_images(
            images, **options
        ).double()
    try:
        return train_and_validate(data, num_images)
    finally:
        torch.set_num_threads(threads)
        for module in (step, inference):
            module.normalize_images = normalize_images


def main(argv: list[str] | None = None) -> int:
    """Run, and write what came out."""
    data, num_images, output = argv or sys.argv[1:]
    with distributed.process_group():
        result = run_job(data, int(num_images))
        if distributed.is_main_process():
            torch.save(result, Path(output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
