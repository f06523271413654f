"""Suppression without loops keeps what greedy suppression keeps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vision.deploy.graph_suppression import GraphSuppression
from vision.ops.box_voting import vote_boxes
from vision.ops.nms import batched_nms

# Each box overlaps its neighbours with IoU 0.6 and the others with 0.33 or less.
CHAIN = torch.tensor([[x, 0, x + 4, 1] for x in range(6)], dtype=torch.float32)
LABELS = torch.ones(1, 6, dtype=torch.int64)


def greedy(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """The kept ones of boxes [B, K, 4], best first, by torchvision's nms."""
    scores = torch.linspace(1, 0.1, boxes.shape[1]).expand(len(boxes), -1)
    return batched_nms(boxes, scores, labels=labels, iou_threshold=iou_threshold)


def random_boxes(seed: int, *, num_boxes: int = 150) -> tuple[Tensor, Tensor]:
    """Crowded boxes of three classes in two images, some without area."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, num_boxes, 2, generator=generator) * 0.6
    sides = torch.rand(2, num_boxes, 2, generator=generator) * 0.4
    sides[:, ::17] = 0
    labels = torch.randint(0, 3, (2, num_boxes), generator=generator)
    return torch.cat([corner, corner + sides], dim=-1), labels


def suppress(boxes: Tensor, labels: Tensor, **options) -> Tensor:
    """What stays, float32 [B, K]."""
    return GraphSuppression(boxes.shape[1], **options)(boxes, labels, torch.ones(labels.shape))[0]


def test_a_chain_worked_out_by_hand():
    """0 drops 1, so 2 stays and drops 3, so 4 stays and drops 5."""
    keep = suppress(CHAIN[None], LABELS, iou_threshold=0.5)
    assert keep.tolist() == [[1, 0, 1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [(2, [1, 0, 1, 1, 1, 1]), (4, [1, 0, 1, 0, 1, 1]), (6, [1, 0, 1, 0, 1, 0])],
)
def test_beyond_the_rounds_boxes_stay(rounds, expected):
    keep = suppress(CHAIN[None], LABELS, iou_threshold=0.5, rounds=rounds)
    assert keep.tolist() == [expected]


def test_other_classes_and_small_overlaps_stay():
    labels = torch.tensor([[1, 2, 1, 2, 1, 2]])
    keep = suppress(CHAIN[None], labels, iou_threshold=0.5)
    assert keep.tolist() == [[1] * 6]
    keep = suppress(CHAIN[None], LABELS, iou_threshold=0.61)
    assert keep.tolist() == [[1] * 6]


@pytest.mark.parametrize("iou_threshold", [0.3, 0.45, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_torchvision(seed, iou_threshold):
    boxes, labels = random_boxes(seed)
    keep = suppress(boxes, labels, iou_threshold=iou_threshold, rounds=12)
    expected = greedy(boxes, labels, iou_threshold)
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(keep.bool(), expected)


def test_real_score_maps_are_decided(shared):
    """The golden network's on four images; see ROUNDS for more."""
    golden = np.load(shared / "golden/forward.npz")
    scores, boxes = torch.from_numpy(golden["scores"]), torch.from_numpy(golden["boxes"])
    best, labels = scores[..., 1:].max(dim=-1)
    rows = best.topk(300).indices
    boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4)).clamp(0, 1)
    labels = labels.gather(1, rows)
    keep = suppress(boxes, labels, iou_threshold=0.45)
    assert torch.equal(keep.bool(), greedy(boxes, labels, 0.45))
    fewer = suppress(boxes, labels, iou_threshold=0.45, rounds=2)
    assert fewer.sum() > keep.sum()  # two would not do


@pytest.mark.parametrize("seed", range(4))
def test_votes_are_those_of_the_post_processing(seed):
    boxes, labels = random_boxes(seed)
    scores = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed))
    scores = scores.sort(dim=-1, descending=True).values + 0.01
    keep, moved = GraphSuppression(150, iou_threshold=0.45, voting_iou=0.3)(boxes, labels, scores)
    chosen = keep.bool()
    expected = vote_boxes(boxes, scores, labels=labels, chosen=chosen, iou_threshold=0.3)
    assert (expected[chosen] - boxes[chosen]).abs().amax() > 0.02
    torch.testing.assert_close(moved[chosen], expected[chosen])


def test_without_area_and_without_a_score_boxes_stay():
    boxes = torch.tensor([[[0.1, 0.1, 0.3, 0.3], [0.2, 0.2, 0.2, 0.4], [0.1, 0.1, 0.3, 0.28]]])
    scores = torch.tensor([[0.8, 0.5, 0.0]])
    labels = torch.ones(1, 3, dtype=torch.int64)
    _, moved = GraphSuppression(3, iou_threshold=0.45, voting_iou=0.6)(boxes, labels, scores)
    torch.testing.assert_close(moved[:, :2], boxes[:, :2])
