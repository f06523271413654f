"""Matching: by hand, contested priors, crowds, empty images, golden labels."""

import golden_facts
import torch

from vision.ops import matcher
from vision.ops.box_coder import encode_boxes
from vision.ops.matcher import IGNORED, match_priors, pad_targets

# Four priors of 0.4 x 0.4 in the corners of the image.
PRIORS = torch.tensor([[x, y, 0.4, 0.4] for y in (0.25, 0.75) for x in (0.25, 0.75)])


def match(boxes, labels, iscrowd=None, priors=PRIORS):
    labels = torch.tensor([labels])
    iscrowd = torch.tensor([iscrowd]) if iscrowd else torch.zeros_like(labels, dtype=torch.bool)
    prior_labels, matched = match_priors(
        torch.tensor([boxes]), labels, iscrowd, priors, iou_threshold=0.5
    )
    return prior_labels[0].tolist(), matched[0]


def test_a_prior_over_the_threshold_is_positive():
    box = [0.05, 0.05, 0.45, 0.45]
    labels, matched = match([box], [7])
    assert labels == [7, 0, 0, 0]
    torch.testing.assert_close(matched[0], torch.tensor(box))


def test_a_small_box_gets_its_best_prior_all_the_same():
    labels, _ = match([[0.7, 0.7, 0.72, 0.72]], [3])
    assert labels == [0, 0, 0, 3]


def test_the_later_box_wins_a_contested_prior():
    labels, matched = match([[0.1, 0.1, 0.2, 0.2], [0.25, 0.25, 0.3, 0.3]], [1, 2])
    assert labels == [2, 0, 0, 0]
    torch.testing.assert_close(matched[0], torch.tensor([0.25, 0.25, 0.3, 0.3]))


def test_an_image_without_boxes_is_background():
    prior_labels, _ = match_priors(
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(2, 0, dtype=torch.bool),
        PRIORS,
        iou_threshold=0.5,
    )
    assert prior_labels.tolist() == [[0] * 4] * 2


def test_padding_beside_a_fuller_image_changes_nothing():
    targets = [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {
            "boxes": torch.tensor([[0.05, 0.05, 0.45, 0.45], [0.5, 0.5, 0.9, 0.9]]),
            "labels": torch.tensor([4, 5]),
        },
    ]
    boxes, labels, iscrowd = pad_targets(targets)
    assert boxes.shape == (2, 2, 4)
    prior_labels, _ = match_priors(boxes, labels, iscrowd, PRIORS, iou_threshold=0.5)
    assert prior_labels.tolist() == [[0, 0, 0, 0], [4, 0, 0, 5]]


def test_priors_in_a_crowd_are_ignored_unless_an_object_has_them():
    crowd, box = [0.0, 0.0, 1.0, 0.5], [0.55, 0.05, 0.95, 0.45]
    labels, _ = match([crowd, box], [9, 2], iscrowd=[True, False])
    assert labels == [IGNORED, 2, 0, 0]


def test_a_crowd_alone_makes_no_positive():
    labels, _ = match([[0.05, 0.05, 0.45, 0.45]], [9], iscrowd=[True])
    assert labels == [IGNORED, 0, 0, 0]


def test_images_in_pieces_and_at_once_match_alike(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(6, 9, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    labels = torch.randint(0, 4, (6, 9), generator=generator)
    iscrowd = torch.rand(6, 9, generator=generator) < 0.2
    intersection, sizes = matcher.pairwise_intersection, []
    monkeypatch.setattr(
        matcher,
        "pairwise_intersection",
        lambda *args: sizes.append(len(args[0])) or intersection(*args),
    )
    whole = match_priors(corners, labels, iscrowd, PRIORS, iou_threshold=0.5)
    monkeypatch.setattr(matcher, "MAX_OVERLAPS_AT_ONCE", 1)
    pieces = match_priors(corners, labels, iscrowd, PRIORS, iou_threshold=0.5)
    num_crowds = int(iscrowd.sum())  # these are looked at by themselves
    assert sizes == [6, num_crowds, *[1] * 6, num_crowds]
    for a, b in zip(whole, pieces, strict=True):
        assert torch.equal(a, b)


def test_golden_matching():
    golden, priors = golden_facts.matching(), golden_facts.priors()
    targets = [
        {"boxes": boxes, "labels": labels}
        for boxes, labels in zip(golden.boxes, golden.labels, strict=True)
    ]
    prior_labels, matched = match_priors(*pad_targets(targets), priors, iou_threshold=0.5)
    assert torch.equal(prior_labels, golden.prior_labels)
    encoded = encode_boxes(matched, priors)[prior_labels > 0]
    torch.testing.assert_close(encoded, golden.positive_targets, atol=1e-5, rtol=0)
