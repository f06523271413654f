"""The networks: the family's keys and output, any size and width."""

from dataclasses import replace

import golden_facts
import numpy as np
import pytest
import torch
from small_networks import build_small

from vision.ops.box_coder import decode_boxes
from vision.ops.priors import PriorMap
from vision.ssd.models import MODELS, build_model
from vision.ssd.network import Network


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


def sizes(name: str) -> list[tuple[int, int]]:
    """The least, the network's own, and of networks that are fast one that is not square."""
    network = MODELS[name]
    sizes = {(network.min_image_size,) * 2, network.image_size}
    return sorted(sizes if "vgg16" in name else sizes | {(256, 384)})


@pytest.mark.parametrize(("name", "image_size"), [(n, size) for n in MODELS for size in sizes(n)])
def test_any_image_size(name, image_size):
    model = build_small(name, image_size=image_size).eval()
    with torch.inference_mode():
        cls_logits, bbox_regression = model(torch.zeros(1, 3, *image_size))
    num_priors = len(model.priors_cxcywh)
    assert cls_logits.shape == (1, num_priors, 3)
    assert bbox_regression.shape == (1, num_priors, 4)
    sizes_of_priors = model.priors_cxcywh[:, 2:]
    assert sizes_of_priors.min() > 0 and sizes_of_priors.max() <= 1
    assert model.priors_cxcywh[:, :2].max() < 1.1  # torchvision leaves centres beyond the edge


@pytest.mark.parametrize("name", MODELS)
def test_too_small_an_image_is_refused_and_the_least_is_not(name):
    least = MODELS[name].min_image_size
    with pytest.raises(ValueError, match=f"each side must be {least} px or more for {name}"):
        build_model(name, num_classes=3, image_size=(least - 1, 320))
    assert len(build_small(name).priors_cxcywh) > 0


@pytest.mark.parametrize("name", ["mb2-ssd-lite", "mb2-ssd"])
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
def test_number_of_priors(name, image_size, num_cells):
    assert build_small(name, image_size=image_size).priors_cxcywh.shape == (6 * num_cells, 4)


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
        ({"name": "vgg19"}, "choose one of mb2-ssd-lite, mb2-ssd"),
        ({"name": "mb2-ssd", "image_size": (64, 300)}, "96 px or more"),
        ({"name": "mb2-ssd", "image_size": (300, 3_000_000_000)}, "16384 px or less"),
        ({"name": "mb2-ssd", "width_mult": 11.0}, "between 0.1 and 10"),
        ({"name": "mb2-ssd", "prior_sizes": (0.1, 0.2)}, "7 growing shares"),
        ({"name": "mb2-ssd", "saved": {"priors": [1]}}, "its priors"),
        ({"name": "mb2-ssd", "saved": {"priors": []}}, "0 feature maps"),
        ({"name": "mb2-ssd", "saved": {"normalization": {"mean": [1], "std": [1]}}}, "its priors"),
    ],
    ids=[
        "unknown network",
        "too small",
        "too large",
        "width",
        "sizes",
        "priors",
        "maps",
        "normalization",
    ],
)
def test_refusals_name_the_remedy(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build_model(num_classes=3, **kwargs)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].width_mult is None])
def test_another_width_is_refused_where_there_is_one(name):
    with pytest.raises(ValueError, match=f"--mb2-width-mult 0.5: {name} has one width"):
        build_model(name, num_classes=3, width_mult=0.5)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_come_back_from_a_checkpoint(name):
    """Through plain lists and numbers, as a file holds them."""
    network = MODELS[name]
    assert network.with_numbers(network.as_numbers()) == network
    assert network.with_numbers({}) == network  # of a checkpoint made before they were kept
    changed = network.as_numbers()
    changed["priors"][0]["shapes"][0] = [0.01, 0.02]
    changed["normalization"]["mean"][1] = 99.0
    changed["resize"] = "point"
    changed["box_voting"] = 0.7
    other: Network = network.with_numbers(changed)
    assert other.priors[0].shapes[0] == (0.01, 0.02) and other.priors[1:] == network.priors[1:]
    assert other.normalization.mean[1] == 99.0 and other.resize == "point"
    assert other.postprocessing.voting_iou == 0.7
    with pytest.raises(ValueError, match="tiles or box_voting are not what this toolkit writes"):
        network.with_numbers({"resize": "cubic"})
    for side in (1e308, 1e-320, 10**20, -1, float("nan"), "x"):
        numbers = network.as_numbers()
        numbers["priors"][0]["shapes"][0] = [0.1, side]
        with pytest.raises(ValueError, match="not what this toolkit writes"):
            network.with_numbers(numbers)


def test_prior_sizes_are_refused_where_priors_do_not_grow():
    network = MODELS["mb2-ssd-lite"]
    upright = (PriorMap(((0.2, 0.3), (0.3, 0.2))),) * 2
    with pytest.raises(ValueError, match="--prior-sizes: mb2-ssd-lite has priors of its own"):
        replace(network, priors=upright).with_prior_sizes((0.1, 0.2, 0.3))


def grow(network: Network) -> bool:
    """Whether each map has two squares first, as `growing_sizes` makes them."""
    return all(w == h for prior_map in network.priors for w, h in prior_map.shapes[:2])


@pytest.mark.parametrize("name", [name for name in MODELS if grow(MODELS[name])])
def test_prior_sizes_keep_shapes_and_strides(name):
    network = MODELS[name]
    sizes = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.05)[: len(network.priors) + 1]
    changed = network.with_prior_sizes(sizes)
    assert [m.shapes[0] for m in changed.priors] == [(size, size) for size in sizes[:-1]]
    assert [m.stride for m in changed.priors] == [m.stride for m in network.priors]
    assert changed.num_priors == network.num_priors
    ratios = [[w / h for w, h in m.shapes] for m in network.priors]
    for prior_map, expected in zip(changed.priors, ratios, strict=True):
        assert [w / h for w, h in prior_map.shapes] == pytest.approx(expected)
