"""What is exported computes what the network and its post-processing compute."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from export_models import as_detectnet_feeds, opinionated, pixels
from torch import Tensor

from vision.deploy.detectnet import select_detections as detectnet
from vision.deploy.export_form import (
    DETECTNET_INPUT,
    PIXELS,
    BestClassForm,
    DetectionForm,
    PlainForm,
    RescaledInput,
)
from vision.ssd.models import MODELS
from vision.ssd.network import Normalization
from vision.ssd.postprocess import PostProcessing, postprocess, select_detections
from vision.ssd.ssd import SSD
from vision.transforms.normalize import normalize_images

IMAGENET = Normalization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
NAMES = ["BACKGROUND", "cat", "dog", "owl"]


def outputs_of(model: SSD, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the network says to images normalised as in training."""
    return model(normalize_images(images.permute(0, 3, 1, 2), **vars(model.network.normalization)))


@pytest.mark.parametrize(
    ("name", "normalization"),
    [*((name, None) for name in MODELS), ("mb2-ssd-lite", IMAGENET)],
    ids=lambda value: "imagenet" if value is IMAGENET else value,
)
@torch.no_grad()
def test_the_difference_of_the_normalisations_is_corrected(name, normalization):
    model = opinionated(name)
    if normalization:
        model.network = replace(model.network, normalization=normalization)
    images = pixels(model)
    expected = outputs_of(model, images)
    fed = as_detectnet_feeds(images)
    for got, wanted in zip(
        RescaledInput(model, fed_as=DETECTNET_INPUT)(fed), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)
    raw = images.permute(0, 3, 1, 2).float()
    for got, wanted in zip(RescaledInput(model, fed_as=PIXELS)(raw), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)
    # What a network that is fed otherwise would say, for comparison.
    if model.network.normalization != DETECTNET_INPUT:
        assert (model(fed)[0] - expected[0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_plain_form_has_every_prior():
    model = opinionated()
    images = pixels(model)
    cls_logits, _ = outputs_of(model, images)
    scores, boxes = PlainForm(model)(as_detectnet_feeds(images))
    torch.testing.assert_close(scores, cls_logits.softmax(dim=-1), atol=1e-4, rtol=1e-3)
    assert boxes.shape == (2, len(model.priors_cxcywh), 4)


@pytest.mark.parametrize("voting_iou", [0.0, 0.6])
@torch.no_grad()
def test_detectnet_shows_what_our_post_processing_gives_for_the_best_class(voting_iou):
    model = opinionated()
    images = pixels(model)
    cls_logits, bbox_regression = outputs_of(model, images)
    scores = cls_logits.softmax(dim=-1)
    is_best = scores[..., 1:] == scores[..., 1:].amax(dim=-1, keepdim=True)
    scores[..., 1:] *= is_best
    threshold = float(scores[..., 1:].flatten(1).topk(100).values[:, -1].max())
    settings = PostProcessing(
        score_threshold=threshold, detections_per_image=None, voting_iou=voting_iou
    )
    expected = select_detections(
        scores,
        bbox_regression,
        model.priors_cxcywh,
        torch.tensor([[90, 120]] * 2),
        **vars(settings),
    )
    got_scores, got_boxes = BestClassForm(model, settings)(as_detectnet_feeds(images))
    for i, wanted in enumerate(expected):
        shown = detectnet(
            got_scores[i].numpy(),
            got_boxes[i].numpy(),
            (90, 120),
            class_names=NAMES,
            score_threshold=threshold,
        )
        order = np.argsort(-shown.scores)
        assert 3 < len(order) == len(wanted["scores"])
        assert shown.labels[order].tolist() == wanted["labels"].tolist()
        np.testing.assert_allclose(shown.scores[order], wanted["scores"], atol=1e-4)
        limit = np.array([119, 89, 119, 89])  # detectNet's last pixel
        np.testing.assert_allclose(
            np.minimum(shown.xyxy[order], limit),
            np.minimum(wanted["boxes"].numpy(), limit),
            atol=0.01,
        )


@torch.no_grad()
def test_a_suppressed_box_is_background():
    model = opinionated()
    form = BestClassForm(model, PostProcessing(), num_candidates=50)
    scores, boxes = form(as_detectnet_feeds(pixels(model)))
    assert scores.shape == (2, 50, 4) and boxes.shape == (2, 50, 4)
    is_suppressed = scores[..., 1:].amax(dim=-1) == 0
    assert 0 < is_suppressed.sum() < is_suppressed.numel()
    assert (scores[is_suppressed] == torch.tensor([1.0, 0, 0, 0])).all()
    torch.testing.assert_close(
        scores.sum(dim=-1)[~is_suppressed], torch.ones(1).expand(int((~is_suppressed).sum()))
    )


# Networks differ to it in their normalisation, and torchvision's in their decoding.
@pytest.mark.parametrize("name", ["mb2-ssd-lite", "vgg16-ssd", "ssdlite320-mb3-large"])
@torch.no_grad()
def test_detections_are_those_of_the_post_processing(name):
    model = opinionated(name)
    for head in model.classification_headers:  # as after training, most priors see the background
        *_, last = (module for module in head.modules() if isinstance(module, torch.nn.Conv2d))
        last.bias.view(-1, 4)[:, 0] += 2
    images = pixels(model)
    settings = PostProcessing(score_threshold=0.2, detections_per_image=20, voting_iou=0.6)
    boxes, scores, labels = DetectionForm(model, settings)(images)
    expected = postprocess(
        *outputs_of(model, images),
        model.priors_cxcywh,
        torch.ones(2, 2, dtype=torch.int64),
        **vars(settings),
    )
    for i, wanted in enumerate(expected):
        found = scores[i] > 0
        assert found.sum() == len(wanted["scores"]) > 3
        torch.testing.assert_close(scores[i][found], wanted["scores"], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(boxes[i][found], wanted["boxes"], atol=1e-4, rtol=1e-3)
        assert labels[i][found].tolist() == wanted["labels"].tolist()
