"""The training form: what is replaced in any network, and that nothing else about it changes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, mobilenet_v3_small

from vision.nn.cpu.optimize import optimize_for_inference, optimize_for_training
from vision.nn.cpu.training_layers import FusedSequential, StridedConv2d
from vision.nn.sync_batch_norm import SyncBatchNorm2d, synchronize_batch_norm
from vision.ssd.models import build_model

NETWORKS = {
    "mb2-ssd-lite": lambda: build_model(
        "mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25
    ),
    "torchvision's MobileNetV2": lambda: mobilenet_v2(width_mult=0.25, num_classes=3),
    "torchvision's MobileNetV3": lambda: mobilenet_v3_small(width_mult=0.5, num_classes=3),
}
# Sequentials and convolutions of each. V3 has ReLU and Hardswish, which are left alone, and layers
# of stride 2: the first, two depthwise 3x3, two depthwise 5x5.
REPLACED = {
    "mb2-ssd-lite": (2 + 17 + 4 + 10, 5 + 4),  # ends, blocks, extra layers, separable heads
    "torchvision's MobileNetV2": (2 + 2 * 16 + 1, 5),  # ends, two in each block but the first
    "torchvision's MobileNetV3": (0, 5),
}


@pytest.fixture(params=NETWORKS)
def network(request) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, NETWORKS[request.param]()


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in model.modules())


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    y = model(images)
    return list(y) if isinstance(y, tuple) else [y]


def train_once(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Statistics and output of one pass in training, and all gradients in one vector."""
    model.train()
    torch.manual_seed(0)  # of dropout
    y = outputs(model, images)
    sum(map(torch.sum, y)).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return dict(model.named_buffers()) | {"y": torch.cat([t.flatten() for t in y]), "g": gradient}


def test_what_is_replaced(network):
    name, model = network
    optimize_for_training(model)
    assert (count(model, FusedSequential), count(model, StridedConv2d)) == REPLACED[name]


def test_parameters_keys_and_names_stay(network):
    _, model = network
    keys, names = list(model.state_dict()), [n for n, _ in model.named_modules()]
    tensors = [*model.parameters(), *model.buffers()]
    optimize_for_training(model)
    optimize_for_training(model)  # twice is as once
    assert list(model.state_dict()) == keys
    assert [n for n, _ in model.named_modules()] == names
    now = [*model.parameters(), *model.buffers()]
    assert all(a is b for a, b in zip(now, tensors, strict=True))


def test_a_pass_in_training_gives_what_torchs_layers_give(network):
    _, model = network
    images = torch.randn(8, 3, 96, 96)
    exact = train_once(copy.deepcopy(model).double(), images.double())
    torchs = train_once(copy.deepcopy(model), images)
    optimize_for_training(model)
    ours = train_once(copy.deepcopy(model), images)
    assert ours.keys() == exact.keys()
    for name, value in ours.items():
        allowed = max(1e-4, 20 * relative_error(torchs[name], exact[name]))
        assert relative_error(value, exact[name]) <= allowed, name


def relative_error(value: Tensor, exact: Tensor) -> float:
    value, exact = value.double(), exact.double()
    return ((value - exact).norm() / exact.norm().clamp(min=1e-6)).item()


def test_it_folds_to_the_same_bits_as_the_plain_network(network):
    _, model = network
    train_once(model, torch.randn(4, 3, 96, 96))
    images = torch.randn(2, 3, 96, 96)
    folded = optimize_for_inference(model)
    optimize_for_training(model)
    refolded = optimize_for_inference(model)
    assert not any(count(refolded, kind) for kind in (StridedConv2d, nn.BatchNorm2d))
    with torch.inference_mode():
        pairs = zip(outputs(refolded, images), outputs(folded, images), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
    assert count(model, StridedConv2d)  # only the copy was folded


def test_copies_are_of_the_same_form(network):
    _, model = network
    optimize_for_training(model)
    copied = copy.deepcopy(model)
    assert [type(m) for m in copied.modules()] == [type(m) for m in model.modules()]
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        (synchronize_batch_norm, optimize_for_training),
        (optimize_for_training, synchronize_batch_norm),
    ],
    ids=["before", "after"],
)
def test_synchronized_batch_norm_stays(changes):
    model = NETWORKS["mb2-ssd-lite"]()
    norms = count(model, nn.BatchNorm2d)
    for change in changes:
        change(model)
    assert (count(model, SyncBatchNorm2d), count(model, nn.BatchNorm2d)) == (norms, 0)
    assert count(model, StridedConv2d) == 9
    optimize_for_inference(model)(torch.zeros(1, 3, 96, 96))


def test_a_network_on_another_device_stays_plain():
    model = NETWORKS["mb2-ssd-lite"]().to("meta")
    optimize_for_training(model)
    assert not count(model, FusedSequential) and not count(model, StridedConv2d)


class _Backwards(nn.Sequential):
    """Calls its layers in another order than they are listed in."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in reversed(list(self)):
            x = layer(x)
        return x


class _Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "layers",
    [
        _Backwards(nn.ReLU6(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        nn.Sequential(_Doubled(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect"), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, 2, 1)),
    ],
    ids=["order", "subclass", "reflected", "same", "no statistics", "parametrized"],
)
def test_what_does_not_fit_is_left_alone(layers):
    x = torch.randn(2, 4, 6, 6)
    expected = layers.eval()(x)
    optimize_for_training(layers)
    assert count(layers, StridedConv2d) == 0
    torch.testing.assert_close(layers(x), expected)
    torch.testing.assert_close(optimize_for_inference(layers)(x), expected)


@torch.no_grad()
def test_layers_with_hooks_are_not_folded():
    called = []
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()).eval()
    layers[1].register_forward_hook(lambda *_: called.append(1))
    optimize_for_inference(layers)(torch.zeros(1, 4, 2, 2))
    assert called == [1]
