#!/usr/bin/env python3
"""AP of torchvision's ssdlite320_mobilenet_v3_large, trained from random weights on a data set.

    python benchmarks/peer_accuracy.py --dataset foda-mini --epochs 6 [--batch-size 16] [--seed 0]

With torchvision's own recipe (references/detection: augmentation `ssdlite`, SGD 0.15 for batches of
192, scaled to the batch, momentum 0.9, weight decay 4e-5, a cosine that is stepped in each epoch, a
linear warm-up of the first epoch), its own losses and its own post-processing, in float32. The
images go through torchvision's transforms; the numbers are of our evaluation, which equals COCO's.
Beside it, from the same images, steps and batches, without a trained backbone:

    ./train_ssd.py --datasets foda-mini --base-net none --epochs 6 --batch-size 16 --threads 1 ...
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2

from vision.datasets.image_files import read_image
from vision.datasets.join_classes import source_with_classes
from vision.datasets.layouts.choose import open_split
from vision.evaluation.coco_boxes import Detections, ground_truth_from_index
from vision.evaluation.coco_eval import evaluate_boxes
from vision.training.data import DataSplit

RATE, OF_BATCH = 0.15, 192
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> int:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    train_source = open_split(args.dataset, "train")
    names = [item.name for item in train_source.index.categories]
    val_source = source_with_classes(open_split(args.dataset, "val"), names)
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(names) + 1
    )
    start = time.perf_counter()
    train(model, PeerImages(train_source), args)
    seconds = time.perf_counter() - start
    metrics = evaluate(model, val_source, names)
    values = ", ".join(f"{key} {metrics[key]:.3f}" for key in SHOWN)
    print(f"{args.epochs} epochs, {seconds:.0f} s of training: {values}")
    return 0


class PeerImages(Dataset):
    """The training images with boxes, through torchvision's `ssdlite` transforms."""

    def __init__(self, source):
        self.index, self.folder = source
        self.positions = DataSplit("train", [source]).images_with_boxes(len(self.index))
        self.transform = v2.Compose(
            [
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.SanitizeBoundingBoxes(),
            ]
        )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, dict]:
        row = int(self.positions[item])
        index = self.index
        rows = slice(index.box_offsets[row], index.box_offsets[row + 1])
        mask = index.trainable[rows] & ~index.iscrowd[rows]
        image = to_tensor(os.path.join(self.folder, index.file_name(row)))
        size = tuple(image.shape[-2:])
        boxes = tv_tensors.BoundingBoxes(
            index.clipped_boxes[rows][mask], format="XYXY", canvas_size=size
        )
        labels = torch.from_numpy(index.labels[rows][mask].astype(np.int64))
        return self.transform(tv_tensors.Image(image), {"boxes": boxes, "labels": labels})


def to_tensor(path: str) -> torch.Tensor:
    """Read an image as uint8 [3, H, W]."""
    return torch.from_numpy(read_image(path)).permute(2, 0, 1).contiguous()


def train(model: torch.nn.Module, images: PeerImages, args: argparse.Namespace) -> None:
    """Train with torchvision's recipe."""
    loader = DataLoader(
        images, batch_size=args.batch_size, shuffle=True, drop_last=True,
        collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)),
    )  # fmt: skip
    rate = RATE * args.batch_size / OF_BATCH
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=4e-5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    warm_up = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1e-3, total_iters=len(loader) - 1
    )
    model.train()
    for epoch in range(args.epochs):
        total = 0.0
        for batch, targets in loader:
            loss = sum(model(list(batch), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if epoch == 0:
                warm_up.step()
            total += loss.item()
        cosine.step()
        print(f"epoch {epoch + 1}/{args.epochs}, loss {total / len(loader):.3f}", flush=True)


@torch.inference_mode()
def evaluate(model: torch.nn.Module, source, names: list[str]) -> dict:
    """Return COCO's numbers of the val images."""
    index, folder = source
    found = []
    model.eval()
    for row in range(len(index)):
        image = to_tensor(os.path.join(folder, index.file_name(row))).float() / 255
        (one,) = model([image])
        boxes = one["boxes"].double().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        rows, labels = np.full(len(boxes), row), one["labels"].numpy()
        found.append(Detections(rows, labels, boxes, one["scores"].double().numpy()))
    truth = ground_truth_from_index(index)
    return evaluate_boxes(truth, Detections.concatenate(found), class_names=names)


if __name__ == "__main__":
    raise SystemExit(main())
