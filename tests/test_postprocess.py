"""Post-processing against the plain definition, the golden values and the edges."""

import golden_facts
import numpy as np
import pytest
import torch
from torchvision.ops import nms

from vision.ops.box_coder import decode_boxes
from vision.ssd.postprocess import postprocess


def by_definition(
    cls_logits,
    bbox_regression,
    priors_cxcywh,
    orig_sizes,
    *,
    score_threshold,
    iou_threshold=0.45,
    candidates_per_class=400,
    detections_per_image=100,
):
    """Each image and each class in turn, everything computed."""
    results = []
    for logits, offsets, (height, width) in zip(
        cls_logits, bbox_regression, orig_sizes.tolist(), strict=True
    ):
        boxes = decode_boxes(offsets, priors_cxcywh).clamp(0, 1)
        rows = []
        for label, scores in enumerate(logits.softmax(dim=-1).T[1:], start=1):
            order = scores.argsort(descending=True)[:candidates_per_class]
            order = order[scores[order] > score_threshold]
            kept = order[nms(boxes[order].double(), scores[order].double(), iou_threshold)]
            rows += [(scores[i].item(), label, boxes[i].tolist()) for i in kept.tolist()]
        rows.sort(key=lambda row: -row[0])
        rows = rows[:detections_per_image]
        results.append(
            {
                "scores": torch.tensor([row[0] for row in rows]),
                "labels": torch.tensor([row[1] for row in rows], dtype=torch.long),
                "boxes": torch.tensor([row[2] for row in rows]).reshape(-1, 4)
                * torch.tensor([width, height, width, height]),
            }
        )
    return results


def random_output(seed: int, *, images=3, priors=400, classes=20, spread=1.0, background=0.0):
    generator = torch.Generator().manual_seed(seed)
    cls_logits = torch.randn(images, priors, classes + 1, generator=generator) * spread
    cls_logits[..., 0] += background
    bbox_regression = torch.randn(images, priors, 4, generator=generator)
    center = torch.rand(priors, 2, generator=generator)
    size = torch.rand(priors, 2, generator=generator) * 0.4 + 0.1
    orig_sizes = torch.randint(100, 900, (images, 2), generator=generator)
    return cls_logits, bbox_regression, torch.cat([center, size], dim=1), orig_sizes


CASES = {
    "flat score map": ({"spread": 0.3}, {"score_threshold": 0.01}),
    "sharp score map": ({"spread": 4.0, "background": 6.0}, {"score_threshold": 0.01}),
    "one class, many overlaps": ({"classes": 1}, {"score_threshold": 0.05}),
    "few candidates of each class": (
        {"spread": 2.0},
        {"score_threshold": 0.01, "candidates_per_class": 3, "detections_per_image": 40},
    ),
    "one detection an image": ({}, {"score_threshold": 0.01, "detections_per_image": 1}),
    "all detections": (
        {"priors": 150, "classes": 5},
        {"score_threshold": 0.01, "detections_per_image": None},
    ),
    "several rounds": (
        {"classes": 2, "priors": 1500},
        {"score_threshold": 0.01, "iou_threshold": 0.02, "candidates_per_class": 1500},
    ),
    "fewer scores than candidates": ({"priors": 7, "classes": 2}, {"score_threshold": 0.1}),
}


@pytest.mark.parametrize(("output", "settings"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(output, settings, seed):
    arguments = random_output(seed, **output)
    results = postprocess(*arguments, **settings)
    expected = by_definition(*arguments, **settings)
    assert sum(len(result["scores"]) for result in expected) > 0
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result["scores"], wanted["scores"])
        assert torch.equal(result["labels"], wanted["labels"])
        torch.testing.assert_close(result["boxes"], wanted["boxes"])


def one_prior(*logits, offsets=(0, 0, 0, 0), size=(100, 200), **settings):
    """Detections of an image with one prior, [0.25, 0.75] in both axes."""
    return postprocess(
        torch.tensor([[logits]]).float(),
        torch.tensor([[offsets]]).float(),
        torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
        torch.tensor([size]),
        **settings,
    )[0]


def test_box_is_in_pixels_of_the_original_and_label_counts_from_one():
    result = one_prior(0, 0, 9, offsets=(1, 0, 0, np.log(0.5) / 0.2))
    # The centre moves by 0.1 * 0.5 of the width, the height halves: (60, 37.5) to (160, 62.5).
    torch.testing.assert_close(result["boxes"], torch.tensor([[60.0, 37.5, 160.0, 62.5]]))
    assert result["labels"].tolist() == [2]


def test_box_is_clipped_to_the_image():
    result = one_prior(0, 9, offsets=(0, 0, 50, 50))
    assert result["boxes"].tolist() == [[0, 0, 200, 100]]


def test_score_threshold_is_a_floor():
    assert len(one_prior(0, 0, score_threshold=0.49)["scores"]) == 1
    assert len(one_prior(0, 0, score_threshold=0.5)["scores"]) == 0


def test_nothing_above_the_threshold():
    result = one_prior(99, 0)
    assert result["boxes"].shape == (0, 4)
    assert result["labels"].dtype == torch.int64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_network_detects_nothing_and_ends(value):
    assert len(one_prior(value, value)["scores"]) == 0
    assert len(one_prior(0, 9, offsets=(float("nan"), 0, 0, 0))["scores"]) == 0


def test_equal_scores_everywhere():
    cls_logits = torch.zeros(2, 300, 11)
    _, bbox_regression, priors, orig_sizes = random_output(0, images=2, priors=300)
    for result in postprocess(cls_logits, bbox_regression, priors, orig_sizes):
        assert len(result["scores"]) == 100
        torch.testing.assert_close(result["scores"], torch.full((100,), 1 / 11))


def test_bfloat16_and_no_images():
    arguments = random_output(0)
    halves = [x.bfloat16() for x in arguments[:2]]
    results = postprocess(*halves, *arguments[2:])
    assert results[0]["boxes"].dtype == torch.float32
    empty = [arguments[0][:0], arguments[1][:0], arguments[2], arguments[3][:0]]
    assert postprocess(*empty) == []


def test_golden_logits_give_the_golden_detections():
    """The original clips nothing, so its boxes are compared where they lie inside the image."""
    output, facts = golden_facts.output(), golden_facts.FACTS
    height, width = facts["image_size"]
    results = postprocess(
        output.cls_logits,
        output.bbox_regression,
        golden_facts.priors(),
        torch.tensor([[height, width]] * 4),
        detections_per_image=None,
        **facts["settings"],
    )
    for image, result in enumerate(results):
        wanted = [d for d in facts["detections"] if d["image"] == image]
        assert len(wanted) == (result["scores"] > facts["min_score"]).sum() > 10
        for detection in wanted:
            x, y, w, h = detection["bbox"]
            box = torch.tensor([x, y, x + w, y + h]).clamp(min=0)
            box = torch.minimum(box, torch.tensor([width, height, width, height]))
            is_same = (result["labels"] == detection["label"]) & (
                (result["scores"] - detection["score"]).abs() < 1e-4
            )
            near = (result["boxes"] - box).abs().amax(dim=1) < 0.05
            assert (is_same & near).sum() == 1
