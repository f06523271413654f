"""Weights from elsewhere: key names, prefixes, wrappers, other classes, refusals."""

import copy
import functools
import os

import golden_facts
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from vision.engine.optim import Schedule, build_optimizer
from vision.engine.state import TrainingState
from vision.runs.checkpoint import FORMAT, serialize
from vision.runs.weights import (
    load_base_net,
    load_pretrained_ssd,
    read_labels,
    read_state_dict,
)
from vision.ssd.models import build_model

WIDTH, OLD = 0.25, ["cat", "dog", "fox"]
NUM_PRIORS = 6


def build(num_classes=4, *, net="mb2-ssd-lite", width_mult=WIDTH, seed=0):
    return copy.deepcopy(_build(num_classes, net, width_mult, seed))


@functools.cache
def _build(num_classes, net, width_mult, seed):
    torch.manual_seed(seed)
    model = build_model(net, num_classes=num_classes, image_size=(96, 96), width_mult=width_mult)
    randomise_statistics(model)
    return model.eval()


def randomise_statistics(module: nn.Module) -> None:
    """Make BatchNorm matter: fresh, it passes its input through."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias)


@pytest.fixture(scope="module")
def torchvision_net():
    torch.manual_seed(1)
    net = mobilenet_v2(weights=None).eval()
    randomise_statistics(net)
    return net


def save(folder, content, name="weights.pth"):
    torch.save(content, folder / name)
    if isinstance(content, dict) and "format" in content:  # with a digest
        (folder / name).write_bytes(serialize(content))
    return folder / name


def assert_same_features(base_net, features):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(base_net(images), features(images))


# ---- backbones


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {k.removeprefix("features."): v for k, v in weights.items()},
        lambda weights: {f"module.{k}": v for k, v in weights.items()},
        lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
        lambda weights: {"epoch": 3, "weights": weights, "optimizer": {"state": {}}},
    ],
    ids=["whole", "features alone", "module.", "state_dict with module.", "combo dict"],
)
def test_torchvision_backbone_gives_the_same_features(tmp_path, torchvision_net, wrap):
    path = save(tmp_path, wrap(torchvision_net.state_dict()))
    model = build(width_mult=1.0)
    report = load_base_net(model, str(path))
    assert report.initialised == [] and len(report.loaded) == len(model.base_net.state_dict())
    assert_same_features(model.base_net, torchvision_net.features)


@pytest.mark.parametrize("prefix", ["features.", "base_net.", "module.features.", ""])
def test_family_backbone(tmp_path, prefix):
    source = build(seed=5).base_net
    path = save(tmp_path, {prefix + k: v for k, v in source.state_dict().items()})
    model = build(seed=6)
    report = load_base_net(model, str(path))
    assert report.initialised == [] and report.unused == []
    assert_same_features(model.base_net, source)


def test_backbone_of_a_detector_leaves_its_heads_alone(tmp_path):
    source, model = build(seed=5), build(seed=6)
    before = model.state_dict()["classification_headers.0.0.weight"].clone()
    load_base_net(model, str(save(tmp_path, source.state_dict())))
    assert_same_features(model.base_net, source.base_net)
    assert torch.equal(model.state_dict()["classification_headers.0.0.weight"], before)


def test_shared_backbone_equals_torchvision(shared):
    path = shared / "weights/mobilenet_v2_features.pth"
    theirs = mobilenet_v2(weights=None).eval()
    missing, unexpected = theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert unexpected == [] and set(missing) == {"classifier.1.weight", "classifier.1.bias"}
    model = build(width_mult=1.0)
    report = load_base_net(model, str(path))
    assert report.initialised == [] and report.unused == []
    assert_same_features(model.base_net, theirs.features)


def test_none_changes_nothing():
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert load_base_net(model, "none") is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_nine_tenths_of_the_backbone_are_enough_and_less_is_not(tmp_path):
    source = build(seed=5).base_net.state_dict()
    needed = [name for name in source if "num_batches_tracked" not in name]
    for drop, is_enough in ((len(needed) // 10, True), (len(needed) // 10 + 1, False)):
        kept = {k: v for k, v in source.items() if k not in needed[:drop]}
        path = save(tmp_path, kept, f"{drop}.pth")
        if is_enough:
            assert len(load_base_net(build(), str(path)).initialised) == drop
        else:
            with pytest.raises(ValueError, match=r"only 8\d% .*another network or width") as error:
                load_base_net(build(), str(path))
            assert str(path) in str(error.value)


@pytest.mark.parametrize("load", [load_base_net, load_pretrained_ssd], ids=lambda f: f.__name__)
def test_another_width_is_refused(tmp_path, load):
    path = save(tmp_path, build(width_mult=0.5).state_dict())
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    options = {"class_names": OLD} if load is load_pretrained_ssd else {}
    with pytest.raises(ValueError, match=r"weights\.pth: .*another network or width"):
        load(model, str(path), **options)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_imagenet_without_network_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in [name for name in os.environ if name.lower() == "no_proxy"]:
        monkeypatch.delenv(name)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"imagenet.*could not be downloaded.*--base-net") as error:
        load_base_net(build(width_mult=1.0), "imagenet")
    assert "\n" not in str(error.value)


# ---- detectors


def test_a_detector_of_the_original_loads_whole(tmp_path):
    """No key missing, left over or renamed, whatever the numbers are."""
    generator = torch.Generator().manual_seed(0)
    theirs = {
        key: torch.rand(shape, generator=generator)
        for key, shape in golden_facts.keys_and_shapes().items()
    }
    path = save(tmp_path, theirs)
    model = build_model("mb2-ssd-lite", num_classes=4)
    report = load_pretrained_ssd(model, path, class_names=["WBC", "RBC", "Platelets"])
    assert (report.adapted, report.initialised, report.unused) == ([], [], [])
    loaded = model.state_dict()
    for name, tensor in theirs.items():
        assert torch.equal(loaded[name], tensor.to(loaded[name].dtype)), name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {f"module.{k}": v for k, v in weights.items()},
        lambda weights: {"epoch": 9, "weights": weights, "optimizer": {}, "arguments": "x"},
        lambda weights: {"model": {f"module.module.{k}": v for k, v in weights.items()}},
        lambda weights: {f"_orig_mod.{k}": v for k, v in weights.items()},
        lambda weights: {k: v.half() if v.is_floating_point() else v for k, v in weights.items()},
    ],
    ids=["bare", "module.", "combo dict", "model, twice wrapped", "compiled", "half precision"],
)
def test_any_wrapping_loads_the_same_weights(tmp_path, wrap):
    source, model = build(seed=5), build(seed=6)
    report = load_pretrained_ssd(model, save(tmp_path, wrap(source.state_dict())), class_names=OLD)
    assert (report.adapted, report.initialised, report.unused) == ([], [], [])
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def own_checkpoint(weights, names, *, ema=None, **changes):
    """The content of a checkpoint of ours; its optimizer is another's, which nothing here reads."""
    optimizer = build_optimizer("sgd", build(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(build(), optimizer, Schedule("none", 1), scaler)
    classes = [
        {"label": i, "category_id": i, "original_category_id": i, "name": name}
        for i, name in enumerate(names, start=1)
    ]
    config = {"arguments": {}, "classes": classes, "history": []}
    content = state.state_dict(config=config, classes=classes)
    return {**content, "model": weights, "ema": ema, **changes}


def test_own_checkpoint_gives_its_averaged_weights_and_class_names(tmp_path):
    live, averaged = build(seed=5).state_dict(), build(seed=6).state_dict()
    path = save(tmp_path, own_checkpoint(live, OLD, ema=averaged))
    weights, names = read_state_dict(path)
    assert names == OLD
    assert all(torch.equal(weights[name], averaged[name]) for name in averaged)
    weights, _ = read_state_dict(save(tmp_path, own_checkpoint(live, OLD)))
    assert all(torch.equal(weights[name], live[name]) for name in live)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = save(tmp_path, own_checkpoint(build().state_dict(), OLD))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # a number that is finite, and wrong
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth: .*damaged"):
        read_state_dict(path)


def test_a_checkpoint_without_class_names_is_refused(tmp_path):
    weights = build().state_dict()
    path = save(tmp_path, own_checkpoint(weights, OLD, classes=[1, 2, 3]))
    with pytest.raises(ValueError, match=r"weights\.pth: .*'classes' was edited"):
        read_state_dict(path)


def rows(tensor, prior, label, num_classes):
    """The row of a score head for one prior and label: priors vary slowest."""
    return tensor[prior * num_classes + label]


@pytest.mark.parametrize("net", ["mb2-ssd-lite", "mb2-ssd"])
@pytest.mark.parametrize("names_from", ["checkpoint", "labels.txt"])
def test_same_named_classes_keep_their_score_rows_at_their_new_labels(tmp_path, net, names_from):
    old = {k: v.clone() for k, v in build(4, net=net, seed=5).state_dict().items()}
    if names_from == "checkpoint":
        path = save(tmp_path, own_checkpoint(old, OLD))
    else:
        path = save(tmp_path, old)
        (tmp_path / "labels.txt").write_text("BACKGROUND\ncat\ndog\nfox\n")
    model = build(6, net=net, seed=6)
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_pretrained_ssd(model, path, class_names=["fox", "owl", "cat", "emu", "yak"])
    new = model.state_dict()

    last = "" if net == "mb2-ssd" else ".3"
    scores = [f"classification_headers.{i}{last if i < 5 else ''}" for i in range(6)]
    scores = [f"{head}.{kind}" for head in scores for kind in ("weight", "bias")]
    assert sorted(report.adapted) == sorted(scores) and report.initialised == []
    for name in scores:
        for prior in range(NUM_PRIORS):
            # background stays 0; fox was 3 and is 1; cat was 1 and is 3
            for old_label, label in ((0, 0), (3, 1), (1, 3)):
                theirs = rows(old[name], prior, old_label, 4)
                assert torch.equal(rows(new[name], prior, label, 6), theirs), (name, prior, label)
            for label in (2, 4, 5):  # owl, emu, yak
                theirs = rows(initial[name], prior, label, 6)
                assert torch.equal(rows(new[name], prior, label, 6), theirs), (name, prior, label)
    # Everything else is the file's, to the bit: regression knows no class, and a depthwise layer
    # whose channels happen to divide by the classes is no score head.
    for name in new.keys() - set(scores):
        assert torch.equal(new[name], old[name]), name


def test_same_classes_in_another_order_are_permuted(tmp_path):
    old = build(4, seed=5).state_dict()
    model = build(4, seed=6)
    load_pretrained_ssd(model, save(tmp_path, own_checkpoint(old, OLD)), class_names=OLD[::-1])
    bias, before = model.state_dict()["classification_headers.5.bias"], torch.arange(24.0)
    assert bias.shape == before.shape
    old["classification_headers.5.bias"].copy_(before)
    path = save(tmp_path, own_checkpoint(old, OLD))
    load_pretrained_ssd(model, path, class_names=OLD[::-1])
    expected = [4 * prior + label for prior in range(6) for label in (0, 3, 2, 1)]
    assert model.state_dict()["classification_headers.5.bias"].tolist() == expected


def test_other_classes_without_names_keep_regression_and_start_scores_anew(tmp_path):
    old = build(4, seed=5).state_dict()
    model = build(6, seed=6)
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_pretrained_ssd(model, save(tmp_path, old), class_names=list("abcde"))
    assert report.adapted == []
    assert all(name.startswith("classification_headers.") for name in report.initialised)
    assert len(report.initialised) == 12 and report.initialised == report.unused
    new = model.state_dict()
    for name in new:
        expected = initial if name in report.initialised else old
        assert torch.equal(new[name], expected[name]), name


def test_another_head_design_is_initialised_and_said(tmp_path):
    path = save(tmp_path, build(4, net="mb2-ssd").state_dict())
    report = load_pretrained_ssd(build(4), path, class_names=OLD)
    assert any(name.startswith("extras.") for name in report.initialised)
    assert all(not name.startswith("base_net.") for name in report.initialised)
    text = str(report)
    assert "\n" not in text and f"{len(report.initialised)} initialised" in text
    assert "extras.0" in text and "classification_headers.0" in text


# ---- damaged and foreign files


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, value):
    weights = build().state_dict()
    weights["extras.1.conv.3.weight"][7, 0, 1, 1] = value
    path = save(tmp_path, {f"module.{k}": v for k, v in weights.items()})
    for call in (
        lambda: load_pretrained_ssd(build(), path, class_names=OLD),
        lambda: load_base_net(build(), str(path)),
    ):
        with pytest.raises(ValueError, match=r"weights\.pth: .*extras\.1\.conv\.3\.weight"):
            call()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not a dict of weights"),
        (torch.zeros(3), "holds a Tensor, not a dict of weights"),
        ({}, "no weights found"),
        ({"epoch": 3, "lr": 0.1}, "no weights found"),
        ({"weights": {}}, "no weights found"),
        ({"format": FORMAT, "model": {"a": torch.zeros(1)}}, "the checkpoint lacks"),
        ({"conv1.weight": torch.zeros(3)}, "only 0% of the backbone"),
        ({"base_net.0.0.weight": torch.zeros(3)}, "only 0% of the backbone"),
    ],
    ids=[
        "list", "tensor", "empty", "no tensors", "empty weights", "no classes",
        "other names", "other shapes",
    ],
)  # fmt: skip
def test_files_that_are_no_detector(tmp_path, content, message):
    path = save(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained_ssd(build(), path, class_names=OLD)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a torch file", b"PK\x03\x04 cut"], ids=repr)
def test_files_that_torch_cannot_read(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.pth: ") as error:
        read_state_dict(tmp_path / "bad.pth")
    assert "\n" not in str(error.value)


# ---- labels.txt


def test_labels_with_and_without_background(tmp_path):
    path = tmp_path / "labels.txt"
    for text in ("BACKGROUND\ncat\ndog\n", "cat\r\n dog \n\n", "background\ncat\ndog"):
        path.write_text(text)
        assert read_labels(path) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"BACKGROUND\n", "empty"),
        (b"cat\ndog\ncat\n", "'cat' stands there twice"),
        (b"caf\xe9\0\n", "holds binary data"),
    ],
    ids=["empty", "background alone", "twice", "binary"],
)
def test_bad_labels_are_named(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"labels\.txt: .*{message}"):
        read_labels(tmp_path / "labels.txt")
