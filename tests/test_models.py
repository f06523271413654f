"""The networks: the family's keys and output, any size and width."""

import numpy as np
import pytest
import torch

from vision.ops.box_coder import decode_boxes
from vision.ssd.models import MODELS, build_model


def test_golden_weights_and_forward_pass(shared):
    model = build_model("mb2-ssd-lite", num_classes=4)
    weights = torch.load(shared / "golden/upstream_mb2_ssd_lite.pth", weights_only=True)
    model.load_state_dict(weights, strict=True)
    assert list(model.state_dict()) == list(weights)
    golden = np.load(shared / "golden/forward.npz")
    images = (torch.from_numpy(golden["input_uint8"]).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        cls_logits, bbox_regression = model.eval()(images)
    boxes = decode_boxes(bbox_regression, model.priors_cxcywh)
    for name, ours in {
        "cls_logits": cls_logits,
        "bbox_regression": bbox_regression,
        "scores": cls_logits.softmax(-1),
        "boxes": boxes,
    }.items():
        theirs = torch.from_numpy(golden[name])
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image_size", [(96, 96), (300, 300), (320, 320), (256, 384), (512, 512)])
def test_any_image_size(name, image_size):
    model = build_model(name, num_classes=3, image_size=image_size, width_mult=0.25).eval()
    with torch.inference_mode():
        cls_logits, bbox_regression = model(torch.zeros(1, 3, *image_size))
    num_priors = len(model.priors_cxcywh)
    assert cls_logits.shape == (1, num_priors, 3)
    assert bbox_regression.shape == (1, num_priors, 4)
    assert model.priors_cxcywh.min() >= 0 and model.priors_cxcywh.max() <= 1


@pytest.mark.parametrize("width_mult", [0.35, 0.5, 0.75, 1.4])
def test_any_width(width_mult):
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=width_mult)
    assert model.classification_headers[0][0].in_channels == int(96 * width_mult) * 6
    with torch.inference_mode():
        cls_logits, _ = model.eval()(torch.zeros(1, 3, 96, 96))
    assert cls_logits.shape[1] == len(model.priors_cxcywh)


def test_output_is_the_same_in_train_and_eval_format():
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    images = torch.zeros(2, 3, 96, 96)
    shapes = [[x.shape for x in getattr(model, mode)()(images)] for mode in ("train", "eval")]
    assert shapes[0] == shapes[1]


def test_priors_are_no_part_of_the_state_dict():
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    assert not any("prior" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "vgg16-ssd"}, "choose one of mb2-ssd-lite, mb2-ssd"),
        ({"name": "mb2-ssd", "image_size": (64, 300)}, "96 px or more"),
    ],
    ids=["unknown network", "too small"],
)
def test_refusals_name_the_remedy(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build_model(num_classes=3, **kwargs)
