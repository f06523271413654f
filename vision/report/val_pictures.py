"""Pictures of val detections and precision-recall curves, for --logger."""

import numpy as np

from vision.datasets.image_files import read_image
from vision.engine.loggers import Loggers
from vision.evaluation.coco_arrays import RECALL_THRESHOLDS
from vision.report.analysis import Analysis
from vision.report.inputs import locate_image
from vision.visualize import draw_boxes

NUM_IMAGES = 8
NUM_CLASSES = 12
_SIDE = 480  # pixels of a picture's longer side


def log_validation(loggers: Loggers, analysis: Analysis, epoch: int) -> None:
    """Add the first val images with their detections, and the curves of the largest classes.

    Args:
        loggers: get them.
        analysis: of the validation.
        epoch: its number, from 1.
    """
    for image in range(min(NUM_IMAGES, analysis.num_images)):
        picture = draw_detections(analysis, image)
        if picture is not None:
            loggers.log_picture(f"val/{image}", picture, epoch)
    counts = [row["num_gt"] for row in analysis.given.metrics["per_class"].values()]
    for k in np.argsort([-count for count in counts], kind="stable")[:NUM_CLASSES].tolist():
        if counts[k]:
            name, precision = analysis.names[k], analysis.precision[0, :, k]  # at IoU 0.5
            loggers.log_curve(
                f"precision-recall/{name}", RECALL_THRESHOLDS, precision, counts[k], epoch
            )


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
