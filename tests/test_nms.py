"""Batched NMS against torchvision's, and cases computed by hand."""

import pytest
import torch
from torchvision.ops import batched_nms as torchvision_batched_nms

from vision.ops.nms import PADDING, batched_nms


def random_boxes(seed: int, *, images: int, boxes: int, scale: float):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, boxes, 2, generator=generator) * scale
    size = (torch.rand(images, boxes, 2, generator=generator) * 0.3 + 0.02) * scale
    return torch.cat([corner, corner + size], dim=-1), torch.rand(
        images, boxes, generator=generator
    )


@pytest.mark.parametrize("num_labels", [1, 3, 80])
@pytest.mark.parametrize("scale", [1.0, 640.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_torchvision_on_random_boxes(num_labels, scale, seed):
    images, boxes = 3, 800
    xyxy, scores = random_boxes(seed, images=images, boxes=boxes, scale=scale)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_labels, (images, boxes), generator=generator)
    keep = batched_nms(xyxy, scores, labels=labels, iou_threshold=0.45)
    groups = labels + num_labels * torch.arange(images)[:, None]
    expected = torch.zeros(images * boxes, dtype=torch.bool)
    kept = torchvision_batched_nms(
        xyxy.flatten(0, 1).double(), scores.flatten().double(), groups.flatten(), 0.45
    )
    expected[kept] = True
    assert torch.equal(keep.flatten(), expected)
    assert 0 < keep.sum() < keep.numel()


def test_by_hand():
    # IoU of neighbours 1/3, and a box suppressed by one that is itself suppressed stays.
    boxes = torch.tensor([[[0, 0, 2, 1], [1, 0, 3, 1], [2, 0, 4, 1], [0, 0, 2, 1]]]).float()
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.95]])
    labels = torch.tensor([[0, 0, 0, 1]])

    def keep(iou_threshold):
        return batched_nms(boxes, scores, labels=labels, iou_threshold=iou_threshold).tolist()

    assert keep(0.3) == [[True, False, True, True]]
    assert keep(0.34) == [[True, True, True, True]]


def test_padding_is_no_box():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 3, 4)
    scores = torch.tensor([[PADDING, 0.1, 0.2], [PADDING, PADDING, PADDING]])
    labels = torch.zeros(2, 3, dtype=torch.long)
    keep = batched_nms(boxes, scores, labels=labels, iou_threshold=0.5)
    assert keep.tolist() == [[False, False, True], [False, False, False]]


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_boxes(shape):
    keep = batched_nms(
        torch.zeros(*shape, 4),
        torch.zeros(shape),
        labels=torch.zeros(shape, dtype=torch.long),
        iou_threshold=0.5,
    )
    assert keep.shape == shape


def test_negative_coordinates_do_not_reach_into_another_class():
    boxes = torch.tensor([[[-50.0, -50.0, 50.0, 50.0], [-150.0, -150.0, -50.0, -50.0]]])
    scores, labels = torch.tensor([[0.9, 0.8]]), torch.tensor([[0, 1]])
    assert batched_nms(boxes, scores, labels=labels, iou_threshold=0.01).all()


@pytest.mark.parametrize("enough", [1, 30, 200, 1000])
@pytest.mark.parametrize("num_labels", [1, 80])
def test_stops_where_enough_boxes_stay(enough, num_labels):
    boxes, scores = random_boxes(0, images=3, boxes=400, scale=1.0)
    scores = scores.sort(dim=1, descending=True).values
    scores[1, 100:], scores[2] = PADDING, PADDING
    labels = torch.randint(num_labels, (3, 400), generator=torch.Generator().manual_seed(1))
    everything = batched_nms(boxes, scores, labels=labels, iou_threshold=0.45)
    keep = batched_nms(boxes, scores, labels=labels, iou_threshold=0.45, enough=enough)
    for some, all_kept in zip(keep, everything, strict=True):
        count = int(some.sum())
        assert count >= min(enough, int(all_kept.sum()))
        assert torch.equal(some.nonzero(), all_kept.nonzero()[:count])
    if enough == 1:  # it does stop
        assert keep.sum() < everything.sum()
