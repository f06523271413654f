"""The loader and training step of qfgaohao's pytorch-ssd and its forks, for training_loop.py.

The benchmarks call these toolkits "the family". The code here is new, written from the published
definitions (Liu et al. 2016, section 2.2, "Data augmentation" and "Hard negative mining"), but it
does what decides their speed: images are processed one by one in Python, decoded by OpenCV and
converted to float32 first; all augmentation is on float32 pixels; the worker matches each image's
priors with a loop over its boxes; float32 images and targets are sent through the workers' pipe;
the step is in float32 and contiguous layout, with torch's default SGD, and negatives are mined by
two sorts over all priors.
"""

import os

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import box_iou

from vision.datasets.layouts.layout import Source
from vision.ops.box_coder import cxcywh_to_xyxy, encode_boxes
from vision.ssd.ssd import SSD
from vision.training.data import DataSplit

SIZE = 300
NUM_WORKERS = 2
MEAN = np.array([127, 127, 127], np.float32)
STD = 128.0
MIN_OVERLAPS = (None, 0.1, 0.3, 0.7, 0.9, 0.0)  # None: the whole image; 0: any crop
NEG_POS_RATIO = 3


def build_loader(source: Source, priors_cxcywh: Tensor, *, batch_size: int) -> DataLoader:
    """Make batches of images [B, 3, 300, 300], offsets [B, P, 4] and labels [B, P]."""
    dataset = FamilyDataset(source, priors_cxcywh)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=NUM_WORKERS,
        shuffle=True,
        persistent_workers=True,
    )


class FamilyDataset(Dataset):
    """The images with boxes of one data set, augmented and matched one by one."""

    def __init__(self, source: Source, priors_cxcywh: Tensor):
        self.index, self.folder = source
        self.positions = DataSplit("train", [source]).images_with_boxes(len(self.index))
        self.priors_cxcywh = priors_cxcywh

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, Tensor]:
        row = int(self.positions[item])
        boxes, labels = self._boxes(row)
        image = cv2.imread(os.path.join(self.folder, self.index.file_name(row)))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        image, boxes, labels = augment(image, boxes, labels)
        pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
        boxes, labels = torch.from_numpy(boxes), torch.from_numpy(labels)
        return pixels, *match(boxes, labels, self.priors_cxcywh)

    def _boxes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        index = self.index
        rows = slice(index.box_offsets[row], index.box_offsets[row + 1])
        mask = index.trainable[rows] & ~index.iscrowd[rows]
        boxes = index.clipped_boxes[rows][mask].astype(np.float32)
        return boxes, index.labels[rows][mask].astype(np.int64)


def augment(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SSD's augmentation: distort, expand, crop, mirror, resize, normalise; boxes become 0..1."""
    image = distort(image.astype(np.float32))
    if np.random.rand() < 0.5:
        image, boxes = expand(image, boxes)
    image, boxes, labels = crop(image, boxes, labels)
    height, width = image.shape[:2]
    if np.random.rand() < 0.5:
        image = image[:, ::-1]
        boxes = boxes.copy()
        boxes[:, 0::2] = width - boxes[:, 2::-2]
    boxes = boxes / np.array([width, height, width, height], np.float32)
    image = cv2.resize(image, (SIZE, SIZE))
    return (image.astype(np.float32) - MEAN) / STD, boxes, labels


def distort(image: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each in half of the cases."""
    if np.random.rand() < 0.5:
        image = image + np.float32(np.random.uniform(-32, 32))
    contrast_first = np.random.rand() < 0.5
    if contrast_first and np.random.rand() < 0.5:
        image = image * np.float32(np.random.uniform(0.5, 1.5))
    image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if np.random.rand() < 0.5:
        image[..., 1] *= np.random.uniform(0.5, 1.5)
    if np.random.rand() < 0.5:
        image[..., 0] += np.random.uniform(-18, 18)
        image[..., 0][image[..., 0] > 360] -= 360
        image[..., 0][image[..., 0] < 0] += 360
    image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
    if not contrast_first and np.random.rand() < 0.5:
        image = image * np.float32(np.random.uniform(0.5, 1.5))
    return image


def expand(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place the image at random on a mean-coloured canvas with sides one to four times as long."""
    height, width = image.shape[:2]
    ratio = np.random.uniform(1, 4)
    left = int(np.random.uniform(0, width * (ratio - 1)))
    top = int(np.random.uniform(0, height * (ratio - 1)))
    canvas = np.empty((int(height * ratio), int(width * ratio), 3), np.float32)
    canvas[:] = MEAN
    canvas[top : top + height, left : left + width] = image
    return canvas, boxes + np.array([left, top, left, top], np.float32)


def crop(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop a patch with a random minimum IoU with the boxes; drop boxes with centres outside."""
    height, width = image.shape[:2]
    while True:
        min_overlap = MIN_OVERLAPS[np.random.randint(len(MIN_OVERLAPS))]
        if min_overlap is None:
            return image, boxes, labels
        for _ in range(50):
            w, h = np.random.uniform(0.3 * width, width), np.random.uniform(0.3 * height, height)
            if not 0.5 <= h / w <= 2:
                continue
            left, top = np.random.uniform(0, width - w), np.random.uniform(0, height - h)
            patch = np.array([left, top, left + w, top + h]).astype(int)
            if overlaps(boxes, patch).min() < min_overlap:
                continue
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((centers > patch[:2]) & (centers < patch[2:])).all(axis=1)
            if not inside.any():
                continue
            kept = boxes[inside]
            kept[:, :2] = np.maximum(kept[:, :2], patch[:2])
            kept[:, 2:] = np.minimum(kept[:, 2:], patch[2:])
            kept -= np.tile(patch[:2], 2)
            return image[patch[1] : patch[3], patch[0] : patch[2]], kept, labels[inside]


def overlaps(boxes: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Return the IoUs of boxes [N, 4] with one patch."""
    sides = np.minimum(boxes[:, 2:], patch[2:]) - np.maximum(boxes[:, :2], patch[:2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / (areas + (patch[2:] - patch[:2]).prod() - shared)


def match(boxes: Tensor, labels: Tensor, priors_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets [P, 4] and labels [P] of the priors, for one image's boxes [N, 4] in 0..1."""
    iou = box_iou(cxcywh_to_xyxy(priors_cxcywh), boxes)
    best_iou, best_box = iou.max(dim=1)
    for box, prior in enumerate(iou.argmax(dim=0)):
        best_box[prior] = box
        best_iou[prior] = 2
    prior_labels = labels[best_box]
    prior_labels[best_iou < 0.5] = 0
    return encode_boxes(boxes[best_box], priors_cxcywh), prior_labels


def multibox_loss(
    cls_logits: Tensor, bbox_regression: Tensor, offsets: Tensor, labels: Tensor
) -> Tensor:
    """Compute SSD's loss; negatives are mined by sorting all priors twice."""
    with torch.no_grad():
        background_loss = -F.log_softmax(cls_logits, dim=2)[..., 0]
        positive = labels > 0
        background_loss[positive] = -torch.inf
        rank = background_loss.sort(dim=1, descending=True).indices.sort(dim=1).indices
        mask = positive | (rank < NEG_POS_RATIO * positive.sum(dim=1, keepdim=True))
    classification = F.cross_entropy(cls_logits[mask], labels[mask], reduction="sum")
    regression = F.smooth_l1_loss(bbox_regression[positive], offsets[positive], reduction="sum")
    return (classification + regression) / positive.sum()


def family_step(
    model: SSD, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor]
) -> float:
    """Take a step in float32 and contiguous layout; return the loss."""
    images, offsets, labels = batch
    optimizer.zero_grad()
    loss = multibox_loss(*model(images), offsets, labels)
    loss.backward()
    optimizer.step()
    return loss.item()
