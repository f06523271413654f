"""Fused BatchNorm and ReLU6 against torch's layers: values, gradients, statistics, and when."""

import copy

import pytest
import torch
from torch import Tensor, nn

from vision.nn.cpu import fused_batch_norm
from vision.nn.cpu.operator_probes import are_usable
from vision.nn.cpu.optimize import optimize_for_training
from vision.nn.cpu.private_operators import convolve
from vision.nn.cpu.training_layers import FusedSequential
from vision.nn.layers import InvertedResidual, conv_bn_relu
from vision.nn.sync_batch_norm import SyncBatchNorm2d

needs_onednn = pytest.mark.skipif(
    not are_usable(convolve, device=torch.device("cpu"), dtype=torch.float32),
    reason="fused layers are for x86 CPUs with oneDNN",
)
SHAPES = [(2, 1, 1), (1, 1, 2), (3, 5, 4), (16, 19, 19)]  # B, H, W


def build(kind: str) -> FusedSequential:
    """An expansion, or a depthwise convolution, with its norm away from the initial state."""
    torch.manual_seed(0)
    if kind == "expand":
        layers = conv_bn_relu(8, 48, kernel=1)
    else:
        layers = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
        )
    nn.init.uniform_(layers[1].weight, 0.5, 3)
    nn.init.normal_(layers[1].bias, 1)
    optimize_for_training(layers)
    return layers.to(memory_format=torch.channels_last)


def random_images(batch: int, height: int, width: int, *, mean: float = 1.0) -> Tensor:
    images = torch.randn(batch, 8, height, width) * torch.linspace(0.5, 2, 8)[:, None, None]
    return (images + mean).to(memory_format=torch.channels_last)


def run(layers: nn.Module, x: Tensor, *, bfloat16: bool = False) -> dict[str, Tensor]:
    """Forward and backward through a copy: everything that comes out of it."""
    layers, x = copy.deepcopy(layers), x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        y = layers(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    (y * weights.roll(7)).sum().backward()
    found = {"y": y.detach(), "x": x.grad, **dict(layers.named_buffers())}
    return found | {name: parameter.grad for name, parameter in layers.named_parameters()}


def plain(layers: FusedSequential) -> nn.Sequential:
    return nn.Sequential(*copy.deepcopy(layers))


def relative_error(value: Tensor, exact: Tensor) -> float:
    value, exact = value.double(), exact.double()
    return ((value - exact).norm() / exact.norm().clamp(min=1e-6)).item()


@needs_onednn
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["expand", "depthwise"])
def test_equal_to_torchs_layers_in_float64(kind, shape):
    layers, x = build(kind), random_images(*shape)
    exact = run(plain(layers).double(), x.double())
    torchs = run(plain(layers), x)
    ours = run(layers, x)
    assert ours.keys() == exact.keys()
    for name, value in ours.items():
        allowed = max(1e-5, 20 * relative_error(torchs[name], exact[name]))
        assert relative_error(value, exact[name]) < allowed, name


@needs_onednn
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("kind", ["expand", "depthwise"])
def test_bfloat16_is_as_close_to_float64_as_torchs_bfloat16(kind, mean):
    layers, x = build(kind), random_images(4, 19, 19, mean=mean)
    exact = run(plain(layers).double(), x.double())
    torchs = run(plain(layers), x, bfloat16=True)
    ours = run(layers, x, bfloat16=True)
    assert ours["y"].dtype == torch.bfloat16
    for name in ours:
        allowed = 2 * relative_error(torchs[name], exact[name]) + 2e-3
        assert relative_error(ours[name], exact[name]) < allowed, name


@needs_onednn
def test_pixels_far_from_zero_lose_no_variance():
    layers, x = build("expand"), random_images(4, 19, 19, mean=300.0)
    exact = run(plain(layers).double(), x.double())
    assert relative_error(run(layers, x)["1.running_var"], exact["1.running_var"]) < 1e-4


@needs_onednn
def test_a_constant_input_gives_the_bias():
    layers, x = build("expand"), torch.full((2, 8, 3, 3), 0.25)
    y = layers(x)
    expected = layers[1].bias.clamp(0, 6)[None, :, None, None].expand_as(y)
    torch.testing.assert_close(y, expected, atol=1e-3, rtol=1e-3)


@needs_onednn
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["expand", "depthwise"])
def test_what_is_not_finite_shows_in_the_gradient(kind, bad):
    """oneDNN's ReLU6 turns NaN into 0 or 6, so it need not reach the loss."""
    x = random_images(2, 5, 5)
    x[0, 3, 2, 2] = bad
    found = run(build(kind), x)
    assert not found["x"].isfinite().all()
    assert not found["1.weight"].isfinite().all()


@needs_onednn
def test_statistics_move_as_torchs_over_several_steps():
    layers = build("expand")
    torchs = plain(layers)
    for seed in range(3):
        torch.manual_seed(seed)
        x = random_images(4, 6, 6)
        layers(x), torchs(x)
    torch.testing.assert_close(layers[1].running_mean, torchs[1].running_mean)
    torch.testing.assert_close(layers[1].running_var, torchs[1].running_var)
    assert layers[1].num_batches_tracked == torchs[1].num_batches_tracked == 3


@needs_onednn
def test_a_training_block_is_made_of_fused_layers(monkeypatch):
    called = []
    for name in ("norm_relu6", "expand_norm_relu6"):
        original = getattr(fused_batch_norm, name)

        def spy(*args, name=name, original=original):
            called.append(name)
            return original(*args)

        monkeypatch.setattr(f"vision.nn.cpu.training_layers.{name}", spy)
    block = InvertedResidual(8, 8, stride=1, expand_ratio=6)
    optimize_for_training(block)
    x = random_images(2, 6, 6)
    block(x)
    assert called == ["expand_norm_relu6", "norm_relu6"]
    with torch.no_grad():
        block(x)
    block.eval()(x)
    block.train().double()(x.double())
    assert len(called) == 2


@needs_onednn
def test_a_covariance_that_costs_more_than_the_map_is_not_taken():
    many, few = random_images(2, 5, 5), random_images(1, 1, 7)
    layers = build("expand")
    assert fused_batch_norm.can_expand(many, *layers[:2])
    assert not fused_batch_norm.can_expand(few, *layers[:2])  # 7 pixels of 8 channels
    wide = conv_bn_relu(256, 512, kernel=1)
    assert not fused_batch_norm.can_expand(torch.zeros(2, 256, 20, 20), *wide[:2])
    assert not fused_batch_norm.can_expand(many, *conv_bn_relu(8, 8, kernel=1)[:2])
    assert not fused_batch_norm.can_expand(many, *conv_bn_relu(8, 16, kernel=3)[:2])


@pytest.mark.parametrize(
    "how", ["eval", "frozen", "synchronized", "float64", "hook", "no momentum", "no statistics"]
)
def test_where_it_does_not_apply_torchs_layers_run(how):
    layers, x = build("expand"), random_images(2, 5, 5)
    if how == "eval":
        layers.eval()
    elif how == "frozen":
        layers[1].eval().requires_grad_(False)
    elif how == "float64":
        layers, x = layers.double(), x.double()
    elif how == "hook":
        layers[1].register_forward_hook(_double)
    elif how == "no momentum":
        layers[1].momentum = None
    elif how == "no statistics":
        layers[1] = nn.BatchNorm2d(48, track_running_stats=False)
    else:
        synchronized = SyncBatchNorm2d(48)
        synchronized.load_state_dict(layers[1].state_dict())
        layers[1] = synchronized
    ours, torchs = run(layers, x), run(plain(layers), x)
    for name, value in ours.items():
        torch.testing.assert_close(value, torchs[name], rtol=0, atol=0)


def _double(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return 2 * output


def test_one_value_a_channel_is_still_refused():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build("expand")(torch.ones(1, 8, 1, 1))
