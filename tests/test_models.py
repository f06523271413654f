"""The networks: the family's keys and output, any size and width."""

import golden_facts
import numpy as np
import pytest
import torch

from vision.ops.box_coder import decode_boxes
from vision.ssd.models import MODELS, build_model


def test_keys_and_shapes_are_the_originals():
    weights = build_model("mb2-ssd-lite", num_classes=4).state_dict()
    found = [(key, tuple(tensor.shape)) for key, tensor in weights.items()]
    assert found == list(golden_facts.keys_and_shapes().items())


def test_golden_weights_and_forward_pass(shared):
    model = build_model("mb2-ssd-lite", num_classes=4)
    weights = torch.load(shared / "golden/upstream_mb2_ssd_lite.pth", weights_only=True)
    model.load_state_dict(weights, strict=True)
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
@pytest.mark.parametrize(
    ("image_size", "num_cells"),
    [
        ((96, 96), 36 + 9 + 4 + 1 + 1 + 1),
        ((300, 300), 361 + 100 + 25 + 9 + 4 + 1),
        ((320, 320), 400 + 100 + 25 + 9 + 4 + 1),
        ((256, 384), 384 + 96 + 24 + 6 + 2 + 1),
        ((512, 512), 1024 + 256 + 64 + 16 + 4 + 1),
    ],
)
def test_any_image_size(name, image_size, num_cells):
    model = build_model(name, num_classes=3, image_size=image_size, width_mult=0.25).eval()
    with torch.inference_mode():
        cls_logits, bbox_regression = model(torch.zeros(1, 3, *image_size))
    assert model.priors_cxcywh.shape == (6 * num_cells, 4)
    assert cls_logits.shape == (1, 6 * num_cells, 3)
    assert bbox_regression.shape == (1, 6 * num_cells, 4)
    assert model.priors_cxcywh.min() >= 0 and model.priors_cxcywh.max() <= 1


@pytest.mark.parametrize("width_mult", [0.35, 0.5, 0.75, 1.4])
def test_any_width(width_mult):
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=width_mult)
    assert model.classification_headers[0][0].in_channels == int(96 * width_mult) * 6
    with torch.inference_mode():
        cls_logits, _ = model.eval()(torch.zeros(1, 3, 96, 96))
    assert cls_logits.shape[1] == len(model.priors_cxcywh)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_output_has_the_same_format_in_training_and_evaluation(mode):
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    output = getattr(model, mode)()(torch.zeros(2, 3, 96, 96))
    assert [type(x) for x in output] == [torch.Tensor] * 2
    # 52 cells of 6 priors, for 2 classes and the background, and for 4 offsets
    assert [x.shape for x in output] == [(2, 312, 3), (2, 312, 4)]


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
