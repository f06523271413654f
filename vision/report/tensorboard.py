"""Pictures of val detections and precision-recall curves in TensorBoard."""

from typing import TYPE_CHECKING

import numpy as np

from vision.datasets.image_files import read_image
from vision.evaluation.coco_arrays import RECALL_THRESHOLDS
from vision.report.analysis import Analysis
from vision.report.inputs import locate_image
from vision.visualize import draw_boxes

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NUM_IMAGES = 8
NUM_CLASSES = 12
_SIDE = 480  # pixels of a picture's longer side


def log_validation(writer: "SummaryWriter", analysis: Analysis, epoch: int) -> None:
    """Add the first val images with their detections, and the curves of the largest classes.

    Args:
        writer: a torch.utils.tensorboard.SummaryWriter, or what has its `add_image` and
            `add_pr_curve_raw`.
        analysis: of the validation.
        epoch: its number, from 1.
    """
    for image in range(min(NUM_IMAGES, analysis.num_images)):
        picture = draw_detections(analysis, image)
        if picture is not None:
            writer.add_image(f"val/{image}", picture, epoch, dataformats="HWC")
    counts = [row["num_gt"] for row in analysis.given.metrics["per_class"].values()]
    for k in np.argsort([-count for count in counts], kind="stable")[:NUM_CLASSES].tolist():
        if counts[k]:
            _add_curve(writer, analysis, k, epoch)
    writer.flush()


def draw_detections(analysis: Analysis, image: int) -> np.ndarray | None:
    """Draw what was found in an image above the threshold of the best F1.

    Returns:
        uint8 [H, W, 3], at most 480 px a side; None where the image cannot be read.
    """
    import cv2

    path, _, (height, width) = locate_image(analysis.given.sources, image)
    try:
        pixels = read_image(path, size=(height, width))
    except (OSError, ValueError):
        return None
    factor = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    dt = analysis.given.detections
    rows = np.flatnonzero((dt.image_index == image) & (dt.scores > analysis.threshold))
    boxes = dt.boxes_xywh[rows] * factor
    boxes[:, 2:] += boxes[:, :2]
    names = [analysis.names[label - 1] for label in dt.labels[rows]]
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return draw_boxes(pixels, boxes, names, scores=dt.scores[rows])


def _add_curve(writer, analysis: Analysis, k: int, epoch: int) -> None:
    """Add one class's curve at IoU 0.5; TensorBoard draws points from high recall to low."""
    recall, precision = RECALL_THRESHOLDS[::-1], analysis.precision[0, ::-1, k]
    num_gt = analysis.given.metrics["per_class"][analysis.names[k]]["num_gt"]
    tp = recall * num_gt
    fp = np.where(precision > 0, tp / np.maximum(precision, 1e-9) - tp, 0)
    writer.add_pr_curve_raw(
        f"precision-recall/{analysis.names[k]}",
        true_positive_counts=tp, false_positive_counts=fp,
        true_negative_counts=np.zeros_like(tp), false_negative_counts=num_gt - tp,
        precision=precision, recall=recall, global_step=epoch, num_thresholds=len(recall),
    )  # fmt: skip
