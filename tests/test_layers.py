"""The blocks and networks are plain torch: what they compute, and that torch can export them."""

import importlib.util
import operator

import pytest
import torch
from small_networks import build_small
from torch import nn

from vision.nn.layers import InvertedResidual
from vision.ssd.models import MODELS

SIZE = (96, 96)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_small("mb2-ssd-lite", image_size=SIZE).eval()


@pytest.mark.parametrize("expand_ratio", [1, 6, 0.25])
def test_a_residual_block_keeps_its_input_at_hand(expand_ratio):
    block = InvertedResidual(8, 8, stride=1, expand_ratio=expand_ratio).eval()
    torch.nn.init.zeros_(block.conv[-2].weight)
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(block(x), x)
    assert not InvertedResidual(8, 8, stride=2, expand_ratio=6).use_res_connect


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_built_plain(name):
    for module in build_small(name).modules():
        assert not type(module).__module__.startswith("vision.nn.cpu"), type(module)


def test_torch_exports_a_network(model):
    images, others = torch.randn(2, 1, 3, *SIZE)
    program = torch.export.export(model, (images,))
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert all(target.namespace == "aten" for target in targets - {operator.getitem})
    for found, expected in zip(program.module()(others), model(others), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_torch_traces_a_network(model):
    images, others = torch.randn(2, 1, 3, *SIZE)
    with torch.no_grad():
        traced = torch.jit.trace(model, images, check_trace=False)
        for found, expected in zip(traced(others), model(others), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))),
    reason="torch.onnx.export needs onnx and onnxscript",
)
def test_torch_writes_a_network_as_onnx(model, tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (torch.randn(1, 3, *SIZE),), str(path), dynamo=True, verbose=False)
    onnx.checker.check_model(str(path), full_check=True)
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert "Conv" in kinds and {node.domain for node in onnx.load(str(path)).graph.node} == {""}
