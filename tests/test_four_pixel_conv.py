"""The first convolution of int8 files: the same results, four pixels at once, from the bytes."""

import numpy as np
import pytest
import torch
from export_models import CLASSES, opinionated, pixels
from torch import nn

from vision.deploy.four_pixel_conv import FourPixelConv2d, with_four_pixel_conv

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from vision.deploy.export import ExportOptions, build_export  # noqa: E402


@pytest.mark.parametrize("size", [(300, 300), (75, 64), (33, 8), (2, 4)])
@torch.no_grad()
def test_the_results_are_those_of_the_convolution(size):
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    x = torch.randn(2, 3, *size)
    assert FourPixelConv2d.can_be(conv, size)
    torch.testing.assert_close(FourPixelConv2d(conv, nn.ReLU6())(x), conv(x).clamp(0, 6))


@pytest.mark.parametrize(
    ("changed", "size"),
    [({"stride": 1}, (8, 8)), ({"padding": 0}, (8, 8)), ({"dilation": 2}, (8, 8)), ({}, (8, 10))],
)
def test_other_convolutions_and_widths_stay(changed, size):
    conv = nn.Conv2d(3, 5, 3, **{"stride": 2, "padding": 1} | changed)
    assert not FourPixelConv2d.can_be(conv, size)


@torch.no_grad()
def test_a_network_with_one_computes_the_same():
    model = opinionated()
    changed = with_four_pixel_conv(model, "base_net.0.0")
    assert isinstance(changed.base_net[0][0], FourPixelConv2d)
    assert isinstance(model.base_net[0][0], nn.Conv2d)
    images = pixels(model, num_images=2).permute(0, 3, 1, 2).float() / 128 - 1
    for found, expected in zip(changed(images), model(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_file_takes_the_bytes_of_the_image():
    """No sum, no rounding: pixel - 127 is what uint8 with the zero 127 and the scale 1 holds."""
    model = opinionated()
    images = list(pixels(model, num_images=2).numpy())
    options = ExportOptions(calibration=images, keep_float=["extras.0"])
    export = build_export("onnx-int8", model, CLASSES, options, trained_model="-")
    graph = onnx.load_from_string(export.encode(export.about)[".onnx"]).graph
    sources = {name: node for node in graph.node for name in node.output}
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    conv = next(node for node in graph.node if node.op_type == "Conv")
    assert values[sources[conv.input[1]].input[0]].shape[1:] == (12, 3, 2)
    taken = sources[conv.input[0]]
    assert taken.op_type == "DequantizeLinear"
    assert [values[name] for name in taken.input[1:]] == [np.float32(1), np.uint8(127)]
    name = taken.input[0]
    while name != graph.input[0].name:
        assert sources[name].op_type in ("Reshape", "Transpose")
        name = sources[name].input[0]
