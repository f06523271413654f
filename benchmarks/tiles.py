"""AP of a run's val split by what is made of the detections in the tiles of a photo.

    python benchmarks/tiles.py --run runs/tiled --dataset DATA
    python benchmarks/tiles.py --run runs/tiled --dataset DATA --tiles 3

Each view of each photo goes through the network once; the same detections are then joined by
several rules. `toolkit` is vision/ops/tiles.py: boxes that end at an inner edge of their tile are
left out, then class-wise suppression; `edge` lines have other ideas of how near that is. `where
covered` leaves such a box out only where a box of another view, of its class, not cut and of at
least that share of its score, covers half of it.
"""

import argparse
import sys
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from torch import Tensor

from vision.datasets.join_classes import source_with_classes
from vision.datasets.layouts.choose import open_split
from vision.evaluation.coco_boxes import Detections, ground_truth_from_index
from vision.evaluation.coco_eval import evaluate_boxes
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ops.nms import batched_nms
from vision.ops.tiles import EDGE, cut_by_edge, join_views
from vision.runs.load_model import load_for_inference
from vision.ssd.postprocess import postprocess
from vision.training.data import evaluation_loader
from vision.transforms.normalize import normalize_images

EDGES = (0.0, EDGE / 2, 2 * EDGE, 4 * EDGE)
SCORE_SHARES = (0.0, 0.3, 0.5, 1.0)


def main() -> int:
    """Measure and print a line for each rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="of train_ssd.py --tiles")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--tiles", type=int, help="default: those of the run")
    args = parser.parse_args()
    model, classes, _ = load_for_inference(args.run, tiles=args.tiles)
    names = [item["name"] for item in classes]
    source = source_with_classes(open_split(args.dataset, "val"), names)
    truth = ground_truth_from_index(source.index)
    photos = find(model, source)
    iou = model.network.postprocessing.iou_threshold

    def show(rule: str, join) -> None:
        found = [to_arrays(join(*photo), i) for i, photo in enumerate(photos)]
        metrics = evaluate_boxes(truth, Detections.concatenate(found), class_names=names)
        of_classes = ", ".join(f"{k} {v['AP'] or 0:.3f}" for k, v in metrics["per_class"].items())
        print(f"{rule:40} AP {metrics['AP']:.4f}  AP50 {metrics['AP50']:.4f}  {of_classes}")

    def toolkit(found, views):
        return join_views(found, views, iou_threshold=iou)

    show("the whole photo alone", lambda found, views: toolkit(found[:1], views[:1]))
    show("suppression alone", lambda found, views: suppressed(*moved(found, views), iou))
    show("toolkit", toolkit)
    for edge in EDGES:
        show(f"edge {edge}", lambda found, views, edge=edge: without_cut(found, views, edge, iou))
    for share in SCORE_SHARES:
        show(
            f"where covered, score share {share}",
            lambda found, views, share=share: where_covered(found, views, share, iou),
        )
    return 0


@torch.inference_mode()
def find(model, source) -> list[tuple[list[dict], list[tuple]]]:
    """Return for each photo what was found in each view, and the views."""
    network = model.network
    loader = evaluation_loader(
        [source], image_size=network.image_size, resize=network.resize, tiles=network.tiles,
        batch_size=16, num_workers=0,
    )  # fmt: skip
    folded = optimize_for_inference(model).to(memory_format=torch.channels_last)
    rows = []
    for images, targets in loader:
        outputs = folded(normalize_images(images, **vars(network.normalization)))
        sizes = [(v[3] - v[1], v[2] - v[0]) for v in (target["view"] for target in targets)]
        found = postprocess(
            *outputs, model.priors_cxcywh, torch.tensor(sizes), **asdict(network.postprocessing)
        )
        rows += [(t["index"], f, t["view"]) for t, f in zip(targets, found, strict=True)]
    grouped = [list(of_photo) for _, of_photo in groupby(rows, key=lambda row: row[0])]
    return [([f for _, f, _ in photo], [v for *_, v in photo]) for photo in grouped]


def moved(found: list[dict], views: list[tuple]) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes in the photo's pixels, scores and labels of all views."""
    boxes = [
        f["boxes"] + torch.tensor([x, y, x, y]) for f, (x, y, *_) in zip(found, views, strict=True)
    ]
    scores, labels = (torch.cat([f[key] for f in found]) for key in ("scores", "labels"))
    return torch.cat(boxes), scores, labels


def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> dict:
    """Suppress, class by class."""
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    if len(scores):
        keep = batched_nms(
            boxes[None], scores[None], labels=labels[None], iou_threshold=iou_threshold
        )[0]
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    return {"boxes": boxes, "scores": scores, "labels": labels}


def rectangles_of(found: list[dict], views: list[tuple]) -> tuple[Tensor, Tensor]:
    """Return the view of each box as its number [N] and as xyxy [N, 4]."""
    view_of = torch.repeat_interleave(torch.tensor([len(f["scores"]) for f in found]))
    return view_of, torch.tensor(views, dtype=torch.float32)[view_of]


def without_cut(found: list[dict], views: list[tuple], edge: float, iou_threshold: float) -> dict:
    """Leave all cut boxes out; then suppress."""
    boxes, scores, labels = moved(found, views)
    keep = ~cut_by_edge(boxes, rectangles_of(found, views)[1], views[0], edge=edge)
    return suppressed(boxes[keep], scores[keep], labels[keep], iou_threshold)


def where_covered(
    found: list[dict], views: list[tuple], score_share: float, iou_threshold: float
) -> dict:
    """Leave a cut box out where a box that is not cut covers half of it; then suppress."""
    boxes, scores, labels = moved(found, views)
    view_of, rectangles = rectangles_of(found, views)
    is_cut = cut_by_edge(boxes, rectangles, views[0])
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    covers = (high - low).clamp(min=0).prod(dim=2) >= 0.5 * areas[:, None]
    covers &= (labels[:, None] == labels) & (view_of[:, None] != view_of) & ~is_cut
    covers &= scores >= score_share * scores[:, None]
    keep = ~(is_cut & covers.any(dim=1))
    return suppressed(boxes[keep], scores[keep], labels[keep], iou_threshold)


def to_arrays(found: dict, position: int) -> Detections:
    """Return detections as the evaluator takes them."""
    boxes = found["boxes"].double().numpy().copy()
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        np.full(len(boxes), position), found["labels"].numpy(), boxes,
        found["scores"].double().numpy(),
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
