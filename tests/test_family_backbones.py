"""Backbone files of the family's networks: torchvision's names and those of the family's files."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_weight, mobilenet_v3_large, mobilenet_v3_small, squeezenet1_1

from vision.nn.vgg import conv6_from_fc6, conv7_from_fc7
from vision.runs.weights import load_base_net
from vision.ssd.backbone_files import IMAGENET_NORMALIZATION, absorb_normalization
from vision.ssd.models import MODELS, build_model
from vision.ssd.network import Normalization

ONE_WIDTH = [name for name, network in MODELS.items() if network.width_mult is None]


def build(name, *, seed=0):
    torch.manual_seed(seed)
    model = build_model(name, num_classes=3, image_size=(96, 96)).eval()
    for layer in model.base_net.modules():
        if isinstance(layer, nn.BatchNorm2d):  # fresh, it passes its input through
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return model


def save(folder, weights):
    torch.save(weights, folder / "weights.pth")
    return str(folder / "weights.pth")


def normalized(pixels, normalization):
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


# ---- files of the family


def mobilenet_v1_classifier(features):
    names = {f"model.{name}": x for name, x in features.items()}
    return names | {"fc.weight": torch.zeros(1001, 1024), "fc.bias": torch.zeros(1001)}


def mobilenet_v3_classifier(features):
    end = max(int(name.split(".")[0]) for name in features)  # the last BatchNorm
    layers = {0: "conv1", 1: "bn1", end - 1: "conv2", end: "bn2"}
    weights = {"linear3.weight": torch.zeros(1280, 960), "bn3.weight": torch.zeros(1280)}
    for name, x in features.items():
        index, rest = name.split(".", 1)
        weights[f"module.{layers.get(int(index), f'bneck.{int(index) - 3}')}.{rest}"] = x
    return weights


@pytest.mark.parametrize(
    ("name", "as_file"),
    [
        ("mb1-ssd", mobilenet_v1_classifier),
        ("mb1-ssd-lite", mobilenet_v1_classifier),
        ("mb3-large-ssd-lite", mobilenet_v3_classifier),
        ("mb3-small-ssd-lite", mobilenet_v3_classifier),
        ("mb3-small-ssd-lite", lambda features: {f"features.{k}": x for k, x in features.items()}),
        ("vgg16-ssd", dict),  # vgg16_reducedfc.pth has no prefix
        ("sq-ssd-lite", lambda features: {f"base_net.{k}": x for k, x in features.items()}),
    ],
    ids=["mb1", "mb1-lite", "bneck large", "bneck small", "features.", "numbers", "detector"],
)
def test_the_familys_files_fill_the_backbone(tmp_path, name, as_file):
    features = build(name, seed=5).base_net.state_dict()
    model = build(name, seed=6)
    report = load_base_net(model, save(tmp_path, as_file(features)))
    assert report.initialised == [] and report.unused == []
    for key, x in features.items():
        assert torch.equal(model.base_net.state_dict()[key], x), key


# ---- torchvision's; a whole VGG16 is 550 MB: one row, repeated, stands in for its large tensors


def test_torchvisions_squeezenet_gives_the_same_features(tmp_path):
    torch.manual_seed(1)
    theirs = squeezenet1_1(weights=None).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias, std=0.1)
    model = build("sq-ssd-lite")
    report = load_base_net(model, save(tmp_path, theirs.state_dict()))
    assert report.initialised == []
    pixels = torch.rand(2, 3, 47, 47) * 255  # no pooling layer has a rest to round up
    with torch.inference_mode():
        features = theirs.features(normalized(pixels, IMAGENET_NORMALIZATION))
        ours = model.base_net(normalized(pixels, model.network.normalization))
    assert features.std() > 1e-3
    torch.testing.assert_close(ours, features, rtol=1e-3, atol=1e-4 * float(features.abs().max()))


@pytest.mark.parametrize(
    ("name", "build_theirs", "share"),
    [
        ("mb3-large-ssd-lite", mobilenet_v3_large, 0.67),
        ("mb3-small-ssd-lite", mobilenet_v3_small, 0.62),
    ],
    ids=["large", "small"],
)
def test_torchvisions_mobilenet_v3_fills_what_has_the_same_place(
    tmp_path, name, build_theirs, share
):
    torch.manual_seed(1)
    theirs = build_theirs(weights=None)
    model = build(name)
    report = load_base_net(model, save(tmp_path, theirs.state_dict()))
    loaded = [own for own in report.loaded if "num_batches" not in own]
    needed = [own for own in model.base_net.state_dict() if "num_batches" not in own]
    assert len(loaded) / len(needed) == pytest.approx(share, abs=0.01)

    def convolutions(block):
        """Weights outside squeeze and excite and shortcut, in the order they are used."""
        return [
            layer.weight
            for at, layer in block.named_modules()
            if isinstance(layer, nn.Conv2d)
            and "fc" not in at
            and not at.startswith(("se.", "shortcut"))
        ]

    stem, *blocks, end = theirs.features
    assert torch.equal(model.base_net[0].weight, stem[0].weight)
    assert torch.equal(model.base_net[-3].weight, end[0].weight)
    assert torch.equal(model.base_net[-2].running_var, end[1].running_var)
    same = 0
    for own, block in zip(model.base_net[3:-3], blocks, strict=True):
        pairs = zip(reversed(convolutions(own)), reversed(convolutions(block)), strict=False)
        same += sum(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)
    assert same == sum(".conv" in own and own.endswith("weight") for own in report.loaded)


@pytest.fixture(scope="module")
def vgg16_features():
    torch.manual_seed(1)
    base_net = build("vgg16-ssd", seed=5).base_net.state_dict()
    return {f"features.{k}": x for k, x in base_net.items() if int(k.split(".")[0]) < 30}


def test_the_classifier_becomes_conv6_and_conv7(tmp_path, vgg16_features):
    rows = torch.arange(4096.0)
    classifier = {
        "classifier.0.weight": rows[:, None].expand(4096, 512 * 49),
        "classifier.0.bias": rows,
        "classifier.3.weight": rows.expand(4096, 4096),
        "classifier.3.bias": -rows,
        "classifier.6.weight": torch.zeros(1000, 1).expand(1000, 4096),
    }
    classifier = {name: tensor.contiguous() for name, tensor in classifier.items()}
    model = build("vgg16-ssd")
    report = load_base_net(model, save(tmp_path, vgg16_features | classifier))
    assert report.initialised == []
    conv6, conv7 = model.base_net[31], model.base_net[33]
    assert conv6.weight[:, 7, 1, 2].tolist() == conv6.bias.tolist() == rows[::4].tolist()
    assert conv7.weight[9, :, 0, 0].tolist() == rows[::4].tolist()
    assert conv7.bias.tolist() == (-rows[::4]).tolist()

    pixels = torch.rand(1, 3, 9, 9) * 255
    name = "features.0."
    theirs = F.conv2d(
        normalized(pixels, IMAGENET_NORMALIZATION),
        vgg16_features[name + "weight"],
        vgg16_features[name + "bias"],
    )
    first = model.base_net[0]
    images = normalized(pixels, model.network.normalization)
    ours = F.conv2d(images, first.weight, first.bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("has_classifier", [False, True], ids=["none", "not a number"])
def test_features_alone_are_taken_as_they_are(tmp_path, vgg16_features, has_classifier):
    classifier = {"classifier.0.weight": torch.full((4, 4), torch.nan)}
    weights = vgg16_features | classifier if has_classifier else vgg16_features
    model = build("vgg16-ssd")
    report = load_base_net(model, save(tmp_path, weights))
    new = [f"base_net.{index}.{kind}" for index in (31, 33) for kind in ("bias", "weight")]
    assert report.initialised == new
    assert torch.equal(model.base_net[0].weight, vgg16_features["features.0.weight"])


def test_a_downloaded_classifier_that_is_not_a_number_is_left_out(vgg16_features):
    classifier = {"classifier.0.weight": torch.full((8, 49), torch.nan)}
    adapted = MODELS["vgg16-ssd"].adapt_backbone(vgg16_features | classifier)
    assert adapted.keys() == vgg16_features.keys() | classifier.keys()


def test_a_file_with_less_is_refused(tmp_path, vgg16_features):
    weights = dict(vgg16_features)
    for index in (21, 24, 26, 28):
        del weights[f"features.{index}.weight"]
    with pytest.raises(ValueError, match=r"weights\.pth: only 7\d% .*another network"):
        load_base_net(build("vgg16-ssd"), save(tmp_path, weights))


def test_conv6_takes_every_fourth_output_and_every_third_place():
    fc6 = torch.arange(8 * 2 * 49.0).view(8, 2 * 49)
    conv6 = conv6_from_fc6(fc6)
    assert conv6.shape == (2, 2, 3, 3)
    # Output 4, channel 1, row 3, column 6 of the window.
    assert conv6[1, 1, 1, 2] == 4 * 98 + 49 + 3 * 7 + 6


def test_conv7_takes_every_fourth_input_and_output():
    conv7 = conv7_from_fc7(torch.arange(64.0).view(8, 8))
    assert conv7[:, :, 0, 0].tolist() == [[0, 4], [32, 36]]


def test_a_layer_that_absorbed_a_normalization_gives_the_same():
    trained = Normalization((120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
    used = Normalization((127.0, 127.0, 127.0), (128.0, 1.0, 2.0))
    conv = nn.Conv2d(3, 5, 3)
    pixels = torch.rand(1, 3, 8, 8) * 255
    before = conv(normalized(pixels, trained))
    weights = {f"first.{name}": x for name, x in conv.state_dict().items()}
    changed = absorb_normalization(weights, "first", trained=trained, used=used)
    conv.load_state_dict({name.removeprefix("first."): x for name, x in changed.items()})
    torch.testing.assert_close(conv(normalized(pixels, used)), before, rtol=1e-4, atol=1e-4)


# ---- what there is not


def test_torchvision_has_the_weights_that_networks_name():
    named = {network.imagenet_weights for network in MODELS.values()} - {None}
    assert len(named) >= 5
    for name in named:
        assert get_weight(name).url.endswith(".pth"), name


@pytest.mark.parametrize("name", ["mb1-ssd", "mb1-ssd-lite"])
def test_mobilenet_v1_is_not_in_torchvision(name):
    with pytest.raises(ValueError, match=f"no backbone of {name}; give a file") as error:
        load_base_net(build(name), "imagenet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ONE_WIDTH)
def test_networks_of_one_width_refuse_another(name):
    with pytest.raises(ValueError, match=rf"--mb2-width-mult 0.5: {name} has one width") as error:
        build_model(name, num_classes=3, width_mult=0.5)
    assert "\n" not in str(error.value)
