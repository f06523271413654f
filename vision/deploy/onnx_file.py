"""ONNX files: a module traced to a checked graph, and what the file says of itself."""

import io
import json
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

# TensorRT 8.2, of JetPack 4.6, knows operators up to this opset: docs/tensorrt.md has the
# source. torch's newer exporter starts at 18.
OPSET = 13


@torch.no_grad()
def export_onnx(
    form: nn.Module,
    example: Tensor,
    *,
    input_name: str,
    output_names: list[str],
    any_batch: bool = False,
) -> onnx.ModelProto:
    """Trace a module of one input.

    Args:
        form: a module of `vision.deploy.export_form`, on the CPU.
        example: what goes in; all shapes of the graph follow from its shape.
        input_name: of the input.
        output_names: of the outputs.
        any_batch: leave the first dimension of input and outputs open.
    """
    names = [input_name, *output_names]
    content = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter warns that it is the older of torch's two, and of shapes that it takes as
        # they are, which is what is wanted.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            form.eval(),
            (example,),
            content,
            dynamo=False,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=output_names,
            dynamic_axes={name: {0: "batch"} for name in names} if any_batch else None,
        )
    model = onnx.load_from_string(content.getvalue())
    while _fold_sizes(model):  # what was folded lets more sizes be inferred
        pass
    _fold_pads(model.graph)
    _tidy(model.graph)
    _fold_input_scale(model.graph)
    if not any_batch:  # of outputs whose size it computed in the graph, the tracer knows none
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        del model.graph.value_info[:]
    model.producer_name = "ssd-training-toolkit"
    onnx.checker.check_model(model, full_check=True)
    return model


def encode(model: onnx.ModelProto, about: Mapping) -> dict[str, bytes]:
    """Return the file's bytes; its metadata are a JSON value for each key of `about`."""
    properties = {prop.key: prop for prop in model.metadata_props}
    for key, value in about.items():
        prop = properties.get(key) or model.metadata_props.add(key=key)
        prop.value = json.dumps(value)
    return {".onnx": model.SerializeToString()}


def _tidy(graph: onnx.GraphProto) -> None:
    """Give layers their weights themselves, and drop constants that nothing takes.

    The tracer writes equal weights once, and points to them; TensorRT wants initializers.
    """
    outputs = {value.name for value in graph.output}
    sources: dict[str, str] = {}
    for node in list(graph.node):
        for place, name in enumerate(node.input):
            node.input[place] = sources.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            sources[node.output[0]] = node.input[0]
            graph.node.remove(node)
    used = outputs.union(*(node.input for node in graph.node))
    for node in list(graph.node):
        if node.op_type == "Constant" and node.output[0] not in used:
            graph.node.remove(node)


def _fold_input_scale(graph: onnx.GraphProto) -> None:
    """Let the first convolution's weights do the scaling of the input: one pass over it less.

    Only where one number scales all channels, so that weights on int8's grid stay on it. Zeros that
    the convolution pads with are not affected.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sources = {name: node for node in graph.node for name in node.output}
    conv = next((node for node in graph.node if node.op_type == "Conv"), None)
    add = sources.get(conv.input[0]) if conv else None
    while add is not None and add.op_type in ("Reshape", "Transpose"):
        add = sources.get(add.input[0])
    scaling = sources.get(add.input[0]) if add is not None and add.op_type == "Add" else None
    if scaling is None or scaling.op_type != "Mul":
        return
    names = scaling.input[1], add.input[1], conv.input[1]
    uses = [name for node in graph.node for name in node.input]
    if not all(name in weights and uses.count(name) == 1 for name in names):
        return
    if uses.count(scaling.output[0]) != 1 or uses.count(add.output[0]) != 1:
        return
    scale, shift, weight = (onnx.numpy_helper.to_array(weights[name]) for name in names)
    if np.ptp(scale):
        return
    factor = scale.flat[0]
    # onnxruntime adds one number in a tenth of the time of three that repeat in each pixel.
    shift = shift.flat[:1] if np.ptp(shift) == 0 else shift
    for name, value in zip(names[1:], (shift / factor, weight * factor), strict=True):
        weights[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    graph.initializer.remove(weights[names[0]])
    add.input[0] = scaling.input[0]
    graph.node.remove(scaling)


def _fold_pads(graph: onnx.GraphProto) -> None:
    """Let a convolution pad by itself where its input is one that is padded with zeros."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = {}
    for node in graph.node:
        sources |= dict.fromkeys(node.output, node)
        if node.op_type == "Constant":
            constants[node.output[0]] = node.attribute[0].t
    uses = [name for node in graph.node for name in node.input]
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = sources.get(conv.input[0])
        if pad is None or pad.op_type != "Pad" or uses.count(pad.output[0]) != 1:
            continue
        mode = next((item.s for item in pad.attribute if item.name == "mode"), b"constant")
        given = [name for name in pad.input[1:] if name]
        if not all(name in constants for name in given):
            continue
        amounts, *filling = (onnx.numpy_helper.to_array(constants[name]) for name in given)
        before, after = np.split(amounts, 2)
        if mode != b"constant" or np.any(filling) or before[:2].any() or after[:2].any():
            continue
        pads = next(item for item in conv.attribute if item.name == "pads")
        pads.ints[:] = np.add(pads.ints, [*before[2:], *after[2:]]).tolist()
        conv.input[0] = pad.input[0]
        graph.node.remove(pad)


def _fold_sizes(model: onnx.ModelProto) -> bool:
    """Replace what the tracer left of computing with sizes by the numbers, where they are known.

    F.normalize and F.pad leave such nodes, one of which, ConstantOfShape of integers, is not in
    TensorRT's matrices.

    Returns:
        Whether a node was replaced.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    sizes = {
        value.name: _size(value) for value in [*inferred.graph.input, *inferred.graph.value_info]
    }
    known: dict[str, np.ndarray] = {}
    nodes, is_replaced = [], False
    for node in model.graph.node:
        size = sizes.get(node.input[0]) if node.op_type == "Shape" else None
        if size is not None:
            known[node.output[0]] = np.array(size, np.int64)
        elif node.op_type == "Constant" or all(name in known or not name for name in node.input):
            values = [known[name] for name in node.input if name]
            feeds = dict(zip(filter(None, node.input), values, strict=True))
            outputs = ReferenceEvaluator(node).run(None, feeds)
            known |= dict(zip(node.output, outputs, strict=True))
            if node.op_type == "Constant":
                nodes.append(node)
                continue
        else:
            nodes.append(node)
            continue
        is_replaced = True
        nodes += [
            onnx.helper.make_node(
                "Constant", [], [name], value=onnx.numpy_helper.from_array(known[name])
            )
            for name in node.output
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return is_replaced


def _size(value: onnx.ValueInfoProto) -> list[int] | None:
    """The size of each dimension, None where one is open."""
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape") or not all(
        d.HasField("dim_value") for d in dims
    ):
        return None
    return [d.dim_value for d in dims]
