"""The MultiBox loss: golden values, mining by hand, empty images, crowds."""

import math

import golden_facts
import pytest
import torch

from vision.ssd.loss import MultiBoxLoss, mine_hard_negatives

PRIORS = torch.tensor([[x, y, 0.4, 0.4] for y in (0.25, 0.75) for x in (0.25, 0.75)])
NO_BOXES = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "iscrowd": torch.zeros(0, dtype=torch.bool),
}


def target(*boxes, labels, iscrowd=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "iscrowd": torch.tensor(iscrowd or [False] * len(boxes)),
    }


@pytest.fixture
def loss_fn():
    return MultiBoxLoss(PRIORS, image_size=(100, 100), iou_threshold=0.5)


def test_golden_loss():
    golden, output = golden_facts.matching(), golden_facts.output()
    targets = [
        {"boxes": boxes * 300, "labels": x, "iscrowd": torch.zeros(len(x), dtype=torch.bool)}
        for boxes, x in zip(golden.boxes, golden.labels, strict=True)
    ]
    loss_fn = MultiBoxLoss(golden_facts.priors(), image_size=(300, 300), iou_threshold=0.5)
    losses = loss_fn(output.cls_logits, output.bbox_regression, targets)
    for name, expected in golden_facts.FACTS["loss"].items():
        assert losses[name].item() == pytest.approx(expected, rel=1e-5), name


def test_one_positive_by_hand(loss_fn):
    # Uniform logits over 2 classes: each prior costs log 2; 1 positive and its 3 negatives.
    targets = [target([5, 5, 45, 45], labels=[1])]
    losses = loss_fn(torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), targets)
    assert losses["loss_classification"].item() == pytest.approx(4 * math.log(2))
    assert losses["loss_regression"].item() == pytest.approx(0, abs=1e-6)
    # An offset of 1 costs 0.5 in smooth L1, one of 3 costs 2.5.
    regression = torch.zeros(1, 4, 4)
    regression[0, 0] = torch.tensor([1.0, 0, 3.0, 0])
    losses = loss_fn(torch.zeros(1, 4, 2), regression, targets)
    assert losses["loss_regression"].item() == pytest.approx(3.0, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(3.0 + 4 * math.log(2), rel=1e-5)


def test_mining_takes_the_hardest_of_each_image():
    loss = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    labels = torch.tensor([[0, 3, 0, 0], [0, 0, -1, 0]])
    chosen = mine_hard_negatives(loss, labels, num_negatives=torch.tensor([2, 3]))
    assert chosen.tolist() == [[False, False, True, True], [True, True, False, True]]


def test_empty_images_teach_by_their_hardest_negatives(loss_fn):
    logits = torch.zeros(2, 4, 2, requires_grad=True)
    losses = loss_fn(logits, torch.zeros(2, 4, 4), [NO_BOXES, NO_BOXES])
    losses["loss"].backward()
    # Each image counts as one positive: 2 x 3 negatives of log 2, over 2.
    assert losses["loss"].item() == pytest.approx(3 * math.log(2))
    assert (logits.grad[..., 0] < 0).sum(dim=1).tolist() == [3, 3]


def test_an_empty_image_beside_a_full_one(loss_fn):
    targets = [NO_BOXES, target([5, 5, 45, 45], labels=[1])]
    losses = loss_fn(torch.zeros(2, 4, 2), torch.zeros(2, 4, 4), targets)
    assert losses["loss_classification"].item() == pytest.approx((3 + 4) * math.log(2) / 2)
    assert losses["num_pos"] == 1


def test_crowds_are_neither_positive_nor_negative(loss_fn):
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    crowd = target([0, 0, 100, 50], labels=[1], iscrowd=[True])
    losses = loss_fn(logits, torch.zeros(1, 4, 4), [crowd])
    losses["loss"].backward()
    assert losses["num_pos"] == 0
    assert (logits.grad != 0).any(dim=-1).tolist() == [[False, False, True, True]]


def test_bfloat16_predictions_are_summed_in_float32(loss_fn):
    targets = [target([5, 5, 45, 45], labels=[1])]
    losses = loss_fn(
        torch.zeros(1, 4, 2, dtype=torch.bfloat16), torch.zeros(1, 4, 4).bfloat16(), targets
    )
    assert losses["loss"].dtype == torch.float32


def test_a_background_score_that_is_not_a_number_reaches_the_loss(loss_fn):
    logits = torch.zeros(1, 4, 2)
    logits[0, 3] = math.nan
    losses = loss_fn(logits, torch.zeros(1, 4, 4), [target([5, 5, 45, 45], labels=[1])])
    assert losses["loss"].isnan()
