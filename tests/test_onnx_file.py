"""The ONNX files: what onnxruntime computes with them, and what TensorRT will find in them."""

import json

import numpy as np
import pytest
import torch
from export_models import as_detectnet_feeds, opinionated, pixels

from vision.deploy.export_form import BestClassForm, DetectionForm, PlainForm
from vision.ssd.models import MODELS
from vision.ssd.postprocess import PostProcessing

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from vision.deploy.onnx_file import encode, export_onnx, operators  # noqa: E402

# The operators of these files that are in the support matrices of TensorRT 8.4 and 8.5
# (docs/operators.md of onnx/onnx-tensorrt, commits 009d6541b4ee and 6d0ab7be324d), without a
# restriction or with one that holds here: axes, K and sizes are constants. Of the matrix of 10.15
# (fa5aa9f61e77) only a part was read: TopK, Transpose and Unsqueeze were not seen there. That of
# 8.2 (release/8.2-GA) ends at opset 13, as these files do; its rows were not compared. TopK takes
# K up to 3840 (docs.nvidia.com/deeplearning/tensorrt, operators, TopK). Resize is nearest,
# asymmetric and floor, which the matrices of 7.0 to 10 have.
TENSORRT = {
    "Add", "And", "ArgMax", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv",
    "Div", "Equal", "Exp", "Expand", "Gather", "GatherElements", "Gemm", "GlobalAveragePool",
    "Greater", "HardSigmoid", "Identity", "Less", "MatMul", "Max", "MaxPool", "Min", "Mul", "Pad",
    "Pow", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize",
    "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Sub", "TopK", "Transpose", "Unsqueeze",
}  # fmt: skip


def feed(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    model = opinionated(name)
    return model, as_detectnet_feeds(pixels(model, num_images=1))


def run(model: "onnx.ModelProto", inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {session.get_inputs()[0].name: inputs})


def shapes(values) -> dict[str, list]:
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


@pytest.mark.parametrize(
    ("name", "plain"), [*((name, False) for name in MODELS), ("mb2-ssd-lite", True)]
)
def test_tensorrt_knows_the_operators_and_onnxruntime_agrees(name, plain):
    model, images = feed(name)
    form = PlainForm(model) if plain else BestClassForm(model, iou_threshold=0.45)
    exported = export_onnx(form, images, input_name="input_0", output_names=["scores", "boxes"])
    assert operators(exported) - TENSORRT == set()
    assert [entry.version for entry in exported.opset_import] == [13]
    for node in exported.graph.node:
        if node.op_type == "Resize":
            modes = {item.name: item.s.decode() for item in node.attribute if item.s}
            assert modes == {
                "coordinate_transformation_mode": "asymmetric",
                "mode": "nearest",
                "nearest_mode": "floor",
            }
    num_rows = len(model.priors_cxcywh) if plain else min(200, len(model.priors_cxcywh))
    assert shapes(exported.graph.input) == {"input_0": [1, 3, *model.image_size]}
    assert shapes(exported.graph.output) == {
        "scores": [1, num_rows, 4], "boxes": [1, num_rows, 4]
    }  # fmt: skip
    inferred = onnx.shape_inference.infer_shapes(exported, strict_mode=True, data_prop=True)
    known = shapes(inferred.graph.value_info)
    for node in inferred.graph.node:
        for output in set(node.output) & known.keys():
            assert all(isinstance(size, int) and size for size in known[output]), node.name
    with torch.no_grad():
        expected = form(images)
    # Two rows whose scores differ by a rounding error may change places.
    got = np.concatenate(run(exported, images.numpy()), axis=-1)[0]
    wanted = torch.cat(expected, dim=-1)[0].numpy()
    nearest = np.abs(got[:, None] - wanted).max(axis=-1).argmin(axis=1)
    assert np.array_equal(np.sort(nearest), np.arange(num_rows))
    np.testing.assert_allclose(got, wanted[nearest], atol=1e-4, rtol=1e-4)


def test_any_number_of_images():
    model, _ = feed("mb2-ssd-lite")
    form = DetectionForm(model, PostProcessing(score_threshold=0, detections_per_image=10))
    images = pixels(model, num_images=3)
    outputs = ["boxes", "scores", "labels"]
    exported = export_onnx(
        form, images[:1], input_name="images", output_names=outputs, any_batch=True
    )
    assert shapes(exported.graph.input)["images"] == ["batch", *model.image_size, 3]
    with torch.no_grad():
        expected = form(images)
    for got, wanted in zip(run(exported, images.numpy()), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4, rtol=1e-4)


def test_what_a_file_says_of_itself_can_be_read_and_changed():
    model, images = feed("mb2-ssd-lite")
    exported = export_onnx(
        PlainForm(model), images, input_name="input_0", output_names=["scores", "boxes"]
    )
    encode(exported, {"classes": ["a", "\u00e9"], "AP": None})
    encode(exported, {"AP": 0.5})
    onnx.checker.check_model(exported)
    read = {prop.key: json.loads(prop.value) for prop in exported.metadata_props}
    assert read == {"classes": ["a", "\u00e9"], "AP": 0.5}
