"""The ONNX files: what onnxruntime computes with them, and what TensorRT will find in them."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from export_models import as_detectnet_feeds, opinionated, pixels

from vision.deploy.export_form import NUM_CANDIDATES, BestClassForm, DetectionForm, PlainForm
from vision.ssd.models import MODELS
from vision.ssd.postprocess import PostProcessing

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from vision.deploy.onnx_file import encode, export_onnx  # noqa: E402

TYPES = {"FLOAT": "FP32", "INT64": "INT64", "INT32": "INT32", "BOOL": "BOOL"}
# Inputs that TensorRT wants to be constant, by place.
CONSTANT_INPUTS = {
    "Conv": [1, 2], "Clip": [1, 2], "Expand": [1], "Pad": [1, 2], "Reshape": [1], "Resize": [2, 3],
    "Slice": [1, 2, 3, 4], "Split": [1], "TopK": [1], "Unsqueeze": [1],
}  # fmt: skip


def tensorrt_rows() -> dict[str, list[set[str]]]:
    """The page's table: for each operator the types here, of 8.2 and 8.4, and of 10.15."""
    lines = (ROOT / "docs/tensorrt.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return {name: [set(cell.split(", ")) for cell in row[:3]] for name, *row in cells[2:]}


def assert_tensorrt_takes_it(exported: "onnx.ModelProto") -> None:
    """Each operator is in the table, with a type of both matrices, and keeps its restriction."""
    rows = tensorrt_rows()
    inferred = onnx.shape_inference.infer_shapes(exported, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    constants = {node.output[0]: node.attribute[0].t for node in inferred.node
                 if node.op_type == "Constant"}  # fmt: skip
    constants |= {tensor.name: tensor for tensor in inferred.initializer}
    types |= {name: tensor.data_type for name, tensor in constants.items()}
    for node in inferred.node:
        assert node.op_type in rows, f"{node.op_type} has no row in docs/tensorrt.md"
        here, early, late = rows[node.op_type]
        name = (node.input or node.output)[0]
        kind = TYPES[onnx.TensorProto.DataType.Name(types[name])]
        assert kind in here and kind in late, node
        assert kind in early or (kind == "INT64" and "INT32" in early), node
        for place in CONSTANT_INPUTS.get(node.op_type, []):
            if place < len(node.input) and node.input[place]:
                assert node.input[place] in constants, node
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "TopK":
            (k,) = onnx.numpy_helper.to_array(constants[node.input[1]])
            assert k < 3840 and attributes.get("sorted", 1) == 1
        if node.op_type == "MaxPool":
            assert len(node.output) == 1 and set(attributes.get("dilations", [1])) == {1}
        if node.op_type == "Resize":
            assert attributes["coordinate_transformation_mode"] == b"asymmetric"
            assert (attributes["mode"], attributes["nearest_mode"]) == (b"nearest", b"floor")


def feed(
    name: str, *, image_size: tuple[int, int] = (99, 131)
) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network with an odd input that is not square, and an image for it."""
    model = opinionated(name, image_size=image_size)
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
    form = PlainForm(model) if plain else BestClassForm(model, PostProcessing(voting_iou=0.6))
    exported = export_onnx(form, images, input_name="input_0", output_names=["scores", "boxes"])
    assert_tensorrt_takes_it(exported)
    assert [entry.version for entry in exported.opset_import] == [13]
    num_rows = len(model.priors_cxcywh) if plain else min(NUM_CANDIDATES, len(model.priors_cxcywh))
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
        expected = torch.cat(form(images), dim=-1)[0].numpy()
    got = np.concatenate(run(exported, images.numpy()), axis=-1)[0]
    # Suppressed boxes, which have no scores, may have moved to one place.
    shown, wanted = (rows[rows[:, 1:4].any(axis=1)] for rows in (got, expected))
    assert len(got) == len(expected) and len(wanted) > 3
    assert_same_rows(shown, wanted)


def assert_same_rows(got: np.ndarray, wanted: np.ndarray) -> None:
    """Two rows whose scores differ by a rounding error may change places."""
    assert got.shape == wanted.shape
    nearest = np.abs(got[:, None] - wanted).max(axis=-1).argmin(axis=1)
    assert np.array_equal(np.sort(nearest), np.arange(len(wanted)))
    np.testing.assert_allclose(got, wanted[nearest], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, "own") for name in MODELS if name != "ssd300-vgg16"), ("mb2-ssd-lite", "odd")],
)
def test_detections_of_each_network_at_its_own_size_and_of_one_at_an_odd_one(name, size):
    """The others at an odd size, and ssd300-vgg16, are in the test above."""
    model, _ = feed(name, **({"image_size": MODELS[name].image_size} if size == "own" else {}))
    form = DetectionForm(model, PostProcessing(score_threshold=0.01, detections_per_image=20))
    images = pixels(model, num_images=1)
    outputs = ["boxes", "scores", "labels"]
    exported = export_onnx(form, images, input_name="images", output_names=outputs)
    assert shapes(exported.graph.input) == {"images": [1, *model.image_size, 3]}
    with torch.no_grad():
        expected = [x[0].numpy() for x in form(images)]
    boxes, scores, labels = (x[0] for x in run(exported, images.numpy()))
    assert len(scores) == 20 and scores[0] > 0.3
    got = np.column_stack([boxes, scores, labels])
    assert_same_rows(got, np.column_stack(expected))


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
