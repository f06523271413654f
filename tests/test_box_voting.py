"""Box voting, worked out by hand."""

import pytest
import torch

from vision.ops.box_voting import vote_boxes
from vision.ops.nms import PADDING
from vision.ssd.postprocess import postprocess

BOXES = torch.tensor([
    [0.0, 0.0, 10.0, 10.0],
    [0.0, 0.0, 10.0, 8.0],   # IoU 0.8 with the first
    [0.0, 0.0, 10.0, 5.0],   # 0.5
    [0.0, 0.0, 10.0, 10.0],  # another class
    [50.0, 50.0, 60.0, 60.0],
])  # fmt: skip
LABELS = torch.tensor([1, 1, 1, 2, 1])
SCORES = torch.tensor([0.6, 0.2, 0.1, 0.9, 0.5])


def vote(chosen, *, scores=SCORES, iou_threshold=0.6):
    return vote_boxes(
        BOXES[None], scores[None], labels=LABELS[None], chosen=torch.tensor([chosen]),
        iou_threshold=iou_threshold,
    )[0]  # fmt: skip


def test_the_mean_is_weighted_by_the_scores():
    moved = vote([True, False, False, True, True])
    assert moved[0].tolist() == pytest.approx([0, 0, 10, (0.6 * 10 + 0.2 * 8) / 0.8])
    assert torch.equal(moved[1:], BOXES[1:])  # not chosen, another class, alone


def test_lower_overlaps_and_padding_have_no_vote():
    padded = torch.tensor([0.6, PADDING, 0.1, 0.9, 0.5])
    chosen = [True, False, False, False, False]
    assert torch.equal(vote(chosen, scores=padded), BOXES)
    moved = vote(chosen, iou_threshold=0.4)
    assert moved[0, 3] == pytest.approx((0.6 * 10 + 0.2 * 8 + 0.1 * 5) / 0.9)


def test_no_box_and_no_area():
    nothing = [False] * 5
    assert torch.equal(vote(nothing), BOXES)
    flat = torch.tensor([[[1.0, 1.0, 1.0, 5.0]]])
    ones = torch.ones(1, 1)
    moved = vote_boxes(flat, ones, labels=ones.long(), chosen=ones.bool(), iou_threshold=0.6)
    assert torch.equal(moved, flat)


def test_the_post_processing_votes_with_what_it_suppressed():
    priors = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.52, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]])
    logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0], [0.0, 0.0]]])
    options = {"orig_sizes": torch.tensor([[100, 200]])}
    (still,) = postprocess(logits, torch.zeros(1, 3, 4), priors, **options)
    (moved,) = postprocess(logits, torch.zeros(1, 3, 4), priors, voting_iou=0.6, **options)
    assert len(still["boxes"]) == len(moved["boxes"]) == 2
    first, second = torch.tensor([2.0, 1.0]).sigmoid().tolist()
    shift = 0.02 * 100 * second / (first + second)
    expected = still["boxes"][0] + torch.tensor([0, shift, 0, shift])
    torch.testing.assert_close(moved["boxes"][0], expected)
    assert torch.equal(moved["boxes"][1], still["boxes"][1])
    assert torch.equal(moved["scores"], still["scores"])
