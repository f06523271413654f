"""Private operators of torch that are missing, fail or are wrong: the plain layers run instead."""

import contextlib
import copy
import logging
import platform
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from vision.nn.cpu import operator_probes
from vision.nn.cpu.operator_probes import are_usable
from vision.nn.cpu.optimize import optimize_for_inference, optimize_for_training
from vision.nn.cpu.private_operators import (
    add_convolution_,
    batch_norm_backward,
    batch_norm_statistics,
    convolution_1x1_backward,
    convolve,
    pack_weight,
    relu6_backward,
)
from vision.nn.layers import InvertedResidual

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="the private operators are used on x86 CPUs with oneDNN",
)
CPU = torch.device("cpu")
# Without AVX-512, oneDNN has no bf16, some of the operators refuse it, and the plain layers run.
needs_bf16 = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN has no bf16 on this processor",
)
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)]
EXPAND, NORM = "_ExpandNormReLU6Backward", "_NormReLU6Backward"
# Where torch keeps each, and which fused layers are left in training without it.
OPERATORS = {
    convolve: (torch.ops.mkldnn, "_convolution_pointwise", set()),
    add_convolution_: (torch.ops.mkldnn, "_convolution_pointwise_", {NORM}),
    pack_weight: (torch._C._nn, "mkldnn_reorder_conv2d_weight", {EXPAND, NORM}),
    convolution_1x1_backward: (torch.ops.aten, "convolution_backward", {NORM}),
    relu6_backward: (torch.ops.aten, "hardtanh_backward", set()),
    batch_norm_statistics: (torch.ops.aten, "batch_norm_update_stats", {EXPAND}),
    batch_norm_backward: (torch.ops.aten, "native_batch_norm_backward", {EXPAND}),
}


@pytest.fixture(autouse=True)
def fresh_probes() -> Iterator[None]:
    """Nothing that was found before counts, and nothing found here counts afterwards."""
    operator_probes._gives_the_right_result.cache_clear()
    yield
    operator_probes._gives_the_right_result.cache_clear()


def missing(original: Callable, operator: Callable) -> Callable:
    return raising(AttributeError(f"torch has no attribute for {operator.__name__}"))


def failing(original: Callable, operator: Callable) -> Callable:
    return raising(RuntimeError("not implemented"))


def raising(error: Exception) -> Callable:
    def call(*_):
        raise error

    call.binary = call
    return call


def wrong(original: Callable, operator: Callable) -> Callable:
    """Give all results, or the packed weight, half as large again."""

    def call(*args):
        if operator is pack_weight:
            return original((1.5 * args[0].to_dense()).to_mkldnn(), *args[1:])
        results = (original.binary if operator is add_convolution_ else original)(*args)
        for result in results if isinstance(results, (tuple, list)) else [results]:
            result.mul_(1.5)
        return results

    call.binary = call
    return call


@pytest.fixture(params=OPERATORS, ids=lambda operator: operator.__name__)
def operator(request) -> Callable:
    return request.param


@pytest.fixture(params=[missing, failing, wrong], ids=lambda fault: fault.__name__)
def broken(request, operator, monkeypatch) -> Callable:
    """One of the operators, broken in one of the ways."""
    namespace, name, _ = OPERATORS[operator]
    fault = request.param(getattr(namespace, name), operator)
    monkeypatch.setattr(namespace, name, fault)
    return operator


def build_block() -> nn.Module:
    """An expansion, a depthwise and a projecting layer, with norms away from the initial state."""
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, stride=1, expand_ratio=6)
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 3)
        nn.init.normal_(norm.bias, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return block.to(memory_format=torch.channels_last)


def autocast(dtype: torch.dtype) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def nodes_behind(y: Tensor) -> set[str]:
    """Names of the fused operations that y came from."""
    seen, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return {type(node).__name__ for node in seen} & {EXPAND, NORM}


def train_once(block: nn.Module, x: Tensor, dtype: torch.dtype) -> tuple[dict, set[str]]:
    """Output, gradients and statistics of a pass, and which fused operations it was made of."""
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    with autocast(dtype):
        y = block(x)
    nodes = nodes_behind(y)
    y.float().square().sum().backward()
    found = {"y": y.detach(), "x": x.grad, **dict(block.named_buffers())}
    return found | {name: p.grad for name, p in block.named_parameters()}, nodes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_this_torch_has_all_of_them(operator, dtype, caplog):
    """Where this fails, torch has changed one: training and inference are right, but slower."""
    assert are_usable(operator, device=CPU, dtype=dtype)
    assert not caplog.messages


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training_goes_on_without_one(broken, dtype):
    plain = build_block()
    fused = copy.deepcopy(plain)
    optimize_for_training(fused)
    x = torch.randn(4, 8, 9, 9).to(memory_format=torch.channels_last)
    exact, _ = train_once(copy.deepcopy(plain).double(), x.double(), torch.float64)
    torchs, _ = train_once(plain, x, dtype)
    found, nodes = train_once(fused, x, dtype)
    assert nodes == OPERATORS[broken][2]
    for name, value in found.items():
        rounding = 1e-4 if dtype == torch.float32 else 5e-3
        allowed = 2 * relative_error(torchs[name], exact[name]) + rounding
        assert relative_error(value, exact[name]) < allowed, name


def relative_error(value: Tensor, exact: Tensor) -> float:
    value, exact = value.double(), exact.double()
    return ((value - exact).norm() / exact.norm()).item()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inference_goes_on_without_one(broken, dtype):
    block = build_block().eval()
    folded = optimize_for_inference(block)
    x = torch.randn(4, 8, 9, 9).to(memory_format=torch.channels_last)
    exact = block.double()(x.double())
    with autocast(dtype):
        found = folded(x)
    assert relative_error(found, exact) < (1e-4 if dtype == torch.float32 else 0.02)
    packed = [conv._packed is not None for conv in folded.conv if hasattr(conv, "_packed")]
    assert packed == [broken not in (convolve, pack_weight)] * 3


def test_the_log_says_it_once(broken, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not are_usable(broken, device=CPU, dtype=torch.float32)
    named = [line for line in caplog.messages if f"behind {broken.__name__} " in line]
    assert len(named) == len(caplog.messages) == 1
    assert torch.__version__ in named[0] and "plain, slower layers run" in named[0]


def test_a_probe_is_alone_with_its_numbers(operator):
    """Whatever is set around it; and training draws the same random numbers after it."""
    state = torch.get_rng_state()
    around = (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode(),
        torch.device("meta"),
    )
    with around[0], around[1], around[2]:
        assert are_usable(operator, device=CPU, dtype=torch.float32)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_other_devices_types_and_settings_take_the_plain_path(monkeypatch):
    assert are_usable(convolve, device=CPU, dtype=torch.float32)
    assert not are_usable(convolve, device=torch.device("cuda"), dtype=torch.float32)
    assert not are_usable(convolve, device=CPU, dtype=torch.float16)
    assert not are_usable(convolve, device=CPU, dtype=torch.float64)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not are_usable(convolve, device=CPU, dtype=torch.float32)


def test_other_machines_take_the_plain_path(monkeypatch, caplog):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not are_usable(convolve, device=CPU, dtype=torch.float32)
    assert not caplog.messages
