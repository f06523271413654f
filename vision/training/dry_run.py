"""One batch end to end: shapes, counts, and a picture of what the network is asked to learn."""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from vision.args import TrainArguments
from vision.engine.step import train_step
from vision.files.atomic_file import write_atomically
from vision.ops.box_coder import decode_boxes, encode_boxes
from vision.ops.matcher import IGNORED
from vision.training.build import (
    build_loss,
    build_network,
    build_state,
    build_train_loader,
    open_data,
    prepare_machine,
)
from vision.training.length import default_epochs
from vision.visualize import draw_boxes

MAX_PICTURES = 16
COLUMNS = 4


def dry_run(args: TrainArguments, *, picture: Path) -> list[str]:
    """Take one training step of a new run, and draw its batch with the decoded targets.

    The boxes drawn went the whole way: augmentation, matching, encoding and decoding. Each box
    stands as often as it has priors, so one drawn once has only its best prior.

    Args:
        args: of the run.
        picture: the file to write.

    Returns:
        Lines of shapes and counts.
    """
    options = prepare_machine(args)
    data = open_data(args)
    model = build_network(args, data, options=options)
    loss_fn = build_loss(args, model)
    loader = build_train_loader(args, data.train, normalization=model.network.normalization)
    steps = loader.num_batches
    epochs = args.epochs or default_epochs(args, steps)
    state = build_state(
        args, model, options=options, steps_per_epoch=steps, total_steps=epochs * steps
    )
    images, targets = next(iter(loader))
    priors = loss_fn.priors_cxcywh
    keys = ("boxes", "labels", "iscrowd")
    on_device = [{key: target[key].to(priors.device) for key in keys} for target in targets]
    prior_labels, matched_boxes = loss_fn.match(on_device)
    decoded = decode_boxes(encode_boxes(matched_boxes, priors), priors) * loss_fn.box_scale
    values, is_finite = train_step(state, images, targets, loss_fn, options=options)
    map_sizes = state.model.feature_map_sizes()
    num_boxes = sum(len(target["labels"]) for target in targets)
    num_pos = int((prior_labels > 0).sum())
    lines = [
        f"images: {tuple(images.shape)} {images.dtype}, {int(images.min())} to {int(images.max())}",
        "feature maps: " + ", ".join(f"{height}x{width}" for height, width in map_sizes),
        f"priors: {len(priors)} an image; positive {num_pos} for {num_boxes} boxes, "
        f"ignored {int((prior_labels == IGNORED).sum())}",
        f"parameters: {sum(p.numel() for p in state.model.parameters()) / 1e6:.2f} million",
        f"a run: {epochs} epochs of {steps} steps",
        ", ".join(f"{name} {value:.4g}" for name, value in values.items()),
    ]
    if not is_finite:
        lines.append("the loss or its gradient is not finite: lower --lr and look at the picture")
    _write_picture(images, prior_labels, decoded, data.train.class_names, picture)
    return [*lines, f"picture: {picture}"]


def _write_picture(
    images: Tensor, prior_labels: Tensor, decoded: Tensor, class_names: list[str], path: Path
) -> None:
    """Lay the images out in a grid, each with the decoded boxes of its positive priors.

    Args:
        images: uint8 [B, 3, H, W].
        prior_labels: [B, P], positive priors have a label above 0.
        decoded: [B, P, 4] xyxy in pixels of the images.
        class_names: of labels 1..C.
        path: the file to write.
    """
    tiles = []
    for image, labels, boxes in zip(images[:MAX_PICTURES], prior_labels, decoded, strict=False):
        positive = labels > 0
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        names = [class_names[label - 1] for label in labels[positive].tolist()]
        tiles.append(draw_boxes(pixels, boxes[positive].cpu().numpy(), names))
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    grid = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(path.suffix, grid)
    write_atomically(path, encoded.tobytes())
