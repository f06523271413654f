"""The inference form: the same results for every shape, type and way of calling."""

import pytest
import torch
from torch import nn

from vision.nn.cpu.inference_conv2d import InferenceConv2d
from vision.nn.cpu.operator_probes import are_usable
from vision.nn.cpu.optimize import optimize_for_inference
from vision.nn.cpu.private_operators import convolve
from vision.nn.layers import InvertedResidual, conv_bn_relu

needs_onednn = pytest.mark.skipif(
    not are_usable(convolve, device=torch.device("cpu"), dtype=torch.float32),
    reason="packed weights are for x86 CPUs with oneDNN",
)


@pytest.fixture
def layers() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        conv_bn_relu(3, 16, kernel=3, stride=2),
        InvertedResidual(16, 16, stride=1, expand_ratio=6),
        nn.Conv2d(16, 5, 1),
    )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 3)
            nn.init.normal_(module.bias, 1)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 2)
    return layers.eval()


def test_every_layer_becomes_one_operation(layers):
    folded = optimize_for_inference(layers)
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(InferenceConv2d) == 5
    assert nn.BatchNorm2d not in kinds and nn.ReLU6 not in kinds
    assert [conv.relu6 for conv in folded.modules() if type(conv) is InferenceConv2d] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert len(folded[1].conv) == len(layers[1].conv)
    again = optimize_for_inference(folded)
    assert [type(module) for module in again.modules()] == kinds
    assert [conv.relu6 for conv in again.modules() if type(conv) is InferenceConv2d].count(
        True
    ) == 3


def test_only_what_follows_directly_is_folded():
    norm_first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU6())
    nn.init.constant_(norm_first[0].running_mean, 0.5)
    folded = optimize_for_inference(norm_first)
    assert [type(layer) for layer in folded] == [nn.BatchNorm2d, InferenceConv2d, nn.ReLU6]
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), norm_first.eval()(x))


@torch.inference_mode()
def test_shapes_may_change_from_call_to_call(layers):
    folded = optimize_for_inference(layers)
    for shape in [(1, 3, 20, 20), (5, 3, 20, 20), (1, 3, 9, 31), (1, 3, 20, 20), (2, 3, 1, 1)]:
        for memory_format in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(shape).to(memory_format=memory_format)
            torch.testing.assert_close(folded(x), layers(x), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_number_formats(layers):
    x = torch.randn(2, 3, 20, 20)
    exact, folded = layers.double()(x.double()), optimize_for_inference(layers.float())
    torch.testing.assert_close(folded(x).double(), exact, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic = folded(x)
    converted = optimize_for_inference(layers).bfloat16()(x.bfloat16())
    for rounded in (automatic, converted):
        assert rounded.dtype == torch.bfloat16
        assert (rounded.double() - exact).abs().max() < 0.03 * exact.abs().max()
    torch.testing.assert_close(folded(x).double(), exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(optimize_for_inference(layers.double())(x.double()), exact)


def test_the_gradient_of_the_input(layers):
    x = torch.randn(2, 3, 20, 20)
    gradients = []
    for model in (layers, optimize_for_inference(layers)):
        inputs = x.clone().requires_grad_()
        model(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


@needs_onednn
@torch.inference_mode()
def test_weights_are_laid_out_once_for_a_shape(layers, monkeypatch):
    packed = []
    original = InferenceConv2d._pack
    monkeypatch.setattr(
        InferenceConv2d, "_pack", lambda conv, x: packed.append(1) or original(conv, x)
    )
    folded = optimize_for_inference(layers)
    one, two = torch.randn(1, 3, 20, 20), torch.randn(2, 3, 20, 20)
    for x, calls in ((one, 5), (one, 5), (two, 10), (two, 10)):
        folded(x)
        assert len(packed) == calls


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_torch_exports_and_traces_it_without_private_operators(layers):
    folded, (x, other) = optimize_for_inference(layers), torch.randn(2, 2, 3, 20, 20)
    program = torch.export.export(folded, (x,))
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {target.namespace for target in targets} == {"aten"}
    with torch.no_grad():
        traced = torch.jit.trace(folded, x, check_trace=False)
        assert "mkldnn" not in str(traced.inlined_graph)
        for exported in (program.module(), traced):
            torch.testing.assert_close(exported(other), layers(other), atol=1e-4, rtol=1e-4)
