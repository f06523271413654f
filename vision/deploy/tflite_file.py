"""TFLite files: a network by litert-torch, and TFLite's own detection operator behind it."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import flatbuffers
import litert_torch
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.quantizer import Quantizer
from flatbuffers import flexbuffers
from torch import nn

from vision.deploy.detect import METADATA_IN_TFLITE, MOST_TFLITE_THREADS
from vision.ssd.postprocess import PostProcessing

SIGNATURE = "serving_default"  # litert-torch's
OPERATOR = "TFLite_Detection_PostProcess"
# With T threads, 1 < T < the number of classes, the operator never looks at class T, counted from
# 0: its threads begin with classes 0 to T - 1, and the next one that is handed out is T + 1
# (detection_postprocess.cc of TensorFlow and LiteRT, `next_col`; tensorflow issue 56058). How many
# threads there will be is the reader's choice, so the columns 2 to 16 of its scores are of no
# class.
NUM_SAFE_CLASSES = 2
NUM_EMPTY_CLASSES = MOST_TFLITE_THREADS - 1


def convert(form: nn.Module, example: torch.Tensor) -> bytes:
    """Return a float TFLite file of a module of one input."""
    with _silence():
        return litert_torch.convert(form.eval(), (example,)).model_content()


def quantize(content: bytes, images: Sequence[np.ndarray]) -> bytes:
    """Make the convolutions int8, weights by channel, with the ranges that images give.

    The heads are int8 too, each map of scores or encodings with its own scale; what is behind them
    is float.

    Args:
        content: of `convert`.
        images: uint8 [H, W, 3] of the input's size, like those that will come.
    """
    operators = qtyping.TFLOperationName
    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=False),
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
    )
    quantizer = Quantizer(content)
    for operator in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.ADD, operators.PAD):
        quantizer.update_quantization_recipe(regex=".*", operation_name=operator, op_config=config)
    (name,) = Interpreter(model_content=content).get_signature_list()[SIGNATURE]["inputs"]
    with _silence():
        ranges = quantizer.calibrate({SIGNATURE: [{name: image[None]} for image in images]})
        return bytes(quantizer.quantize(ranges).quantized_model)


@contextmanager
def _silence() -> Iterator[None]:
    """Silence what the converters log and print, progress bars among it."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        words = io.StringIO()
        with redirect_stdout(words), redirect_stderr(words), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def append_detection(content: bytes, priors: np.ndarray, settings: PostProcessing) -> bytes:
    """Put TFLite's detection operator behind a network.

    Args:
        content: a file that gives scores [1, P, C+1] and encodings (ty, tx, th, tw) [1, P, 4].
        priors: float32 [P, 4], cy, cx, h, w as shares of the image's sides.
        settings: of the operator; classes suppress only their own boxes, as in PyTorch.

    Returns:
        A file that gives boxes [1, N, 4] (y1, x1, y2, x2 as shares), classes [1, N] from 0 without
        the background, scores [1, N], and their number [1].
    """
    model, graph, scores, encodings = _open(content)
    _, num_priors, num_columns = map(int, graph.tensors[scores].shape)
    is_spread = num_columns > 1 + NUM_SAFE_CLASSES
    if is_spread:
        scores = _with_empty_classes(model, graph, scores, (num_priors, num_columns))
        num_columns += NUM_EMPTY_CLASSES
    anchors = _add_tensor(model, graph, "anchors", priors.shape, values=priors)
    num_detections = settings.detections_per_image or 100
    shapes = ([1, num_detections, 4], [1, num_detections], [1, num_detections], [1])
    outputs = [
        _add_tensor(model, graph, f"{OPERATOR}:{i}" if i else OPERATOR, shape)
        for i, shape in enumerate(shapes)
    ]
    options = _operator_options(
        num_classes=num_columns - 1, num_detections=num_detections, settings=settings
    )
    _add_operator(
        model, graph, schema.BuiltinOperator.CUSTOM, [encodings, scores, anchors], outputs,
        customCode=OPERATOR, customOptions=list(options),
    )  # fmt: skip
    boxes, classes, best_scores, count = outputs
    if is_spread:
        classes = _without_empty_classes(model, graph, classes, shapes[1])
    graph.outputs = [boxes, classes, best_scores, count]
    return _pack(model)


def _with_empty_classes(
    model: schema.ModelT, graph: schema.SubGraphT, scores: int, shape: tuple[int, int]
) -> int:
    """Put the empty classes between the others: a column of -1 behind all, taken many times."""
    num_priors, num_columns = shape
    first = 1 + NUM_SAFE_CLASSES  # the background too
    places = [*range(first), *[num_columns] * NUM_EMPTY_CLASSES, *range(first, num_columns)]
    padding = _add_tensor(
        model, graph, "padding", [3, 2], values=np.array([[0, 0], [0, 0], [0, 1]], np.int32)
    )
    nothing = _add_tensor(model, graph, "nothing", [1], values=np.array([-1], np.float32))
    columns = _add_tensor(model, graph, "columns", [len(places)], values=np.array(places, np.int32))
    padded = _add_tensor(model, graph, "padded_scores", [1, num_priors, num_columns + 1])
    spread = _add_tensor(model, graph, "spread_scores", [1, num_priors, len(places)])
    operators, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    _add_operator(
        model, graph, operators.PADV2, [scores, padding, nothing], [padded],
        builtinOptionsType=kinds.PadV2Options, builtinOptions=schema.PadV2OptionsT(),
    )  # fmt: skip
    _add_operator(
        model, graph, operators.GATHER, [padded, columns], [spread],
        builtinOptionsType=kinds.GatherOptions, builtinOptions=schema.GatherOptionsT(axis=2),
    )  # fmt: skip
    return spread


def _without_empty_classes(
    model: schema.ModelT, graph: schema.SubGraphT, classes: int, shape: list[int]
) -> int:
    """Number the classes as without the empty ones: max(min(class, 1), class - empty ones)."""
    last_safe, num_empty = (
        _add_tensor(model, graph, name, [1], values=np.array([value], np.float32))
        for name, value in (("last_safe", NUM_SAFE_CLASSES - 1), ("num_empty", NUM_EMPTY_CLASSES))
    )
    low, high, numbered = (
        _add_tensor(model, graph, f"classes/{name}", shape) for name in ("low", "high", "numbered")
    )
    operators, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    extremes = {
        "builtinOptionsType": kinds.MaximumMinimumOptions,
        "builtinOptions": schema.MaximumMinimumOptionsT(),
    }
    _add_operator(model, graph, operators.MINIMUM, [classes, last_safe], [low], **extremes)
    _add_operator(
        model, graph, operators.SUB, [classes, num_empty], [high],
        builtinOptionsType=kinds.SubOptions, builtinOptions=schema.SubOptionsT(),
    )  # fmt: skip
    _add_operator(model, graph, operators.MAXIMUM, [low, high], [numbered], **extremes)
    return numbered


def append_priors(content: bytes, priors: np.ndarray) -> bytes:
    """Give a network's raw outputs in a known order, and the priors as a third.

    Returns:
        A file that gives scores [1, P, C+1], encodings [1, P, 4] and priors [P, 4].
    """
    model, graph, scores, encodings = _open(content)
    graph.outputs = [
        scores, encodings, _add_tensor(model, graph, "anchors", priors.shape, values=priors)
    ]  # fmt: skip
    return _pack(model)


def encode(content: bytes, about: Mapping) -> dict[str, bytes]:
    """Return the file's bytes with `about` in its metadata."""
    model = _unpack(content)
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    model.buffers.append(schema.BufferT(data=text))
    entry = schema.MetadataT(name=METADATA_IN_TFLITE, buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]
    return {".tflite": _pack(model)}


def _open(content: bytes) -> tuple[schema.ModelT, schema.SubGraphT, int, int]:
    """Return a model, its graph, and the places of the tensors of scores and encodings.

    The graph gives them in this order, whatever their shapes.
    """
    model = _unpack(content)
    model.signatureDefs = []  # they speak of outputs that are none any more
    (graph,) = model.subgraphs
    scores, encodings = graph.outputs
    return model, graph, int(scores), int(encodings)


def _add_operator(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    code: int,
    inputs: list[int],
    outputs: list[int],
    *,
    customCode: str | None = None,
    **options,
) -> None:
    """Add an operator behind the others; `options` are its flatbuffer's."""
    model.operatorCodes.append(
        schema.OperatorCodeT(
            builtinCode=code,
            deprecatedBuiltinCode=min(code, 127),  # one byte, all that older readers know
            customCode=customCode,
            version=1,
        )
    )
    opcode = len(model.operatorCodes) - 1
    graph.operators.append(
        schema.OperatorT(opcodeIndex=opcode, inputs=inputs, outputs=outputs, **options)
    )


def _add_tensor(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    name: str,
    shape: tuple[int, ...] | list[int],
    *,
    values: np.ndarray | None = None,
) -> int:
    """Add a tensor, a constant where it has values, else float32; returns its place."""
    buffer, kind = 0, schema.TensorType.FLOAT32  # the first buffer is empty, by TFLite's rule
    if values is not None:
        content = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        model.buffers.append(schema.BufferT(data=content))
        buffer = len(model.buffers) - 1
        kind = {"f": schema.TensorType.FLOAT32, "i": schema.TensorType.INT32}[values.dtype.kind]
    graph.tensors.append(schema.TensorT(name=name, shape=list(shape), type=kind, buffer=buffer))
    return len(graph.tensors) - 1


def _operator_options(
    *, num_classes: int, num_detections: int, settings: PostProcessing
) -> bytearray:
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", num_detections)
        builder.Int("max_classes_per_detection", 1)
        builder.Int("detections_per_class", num_detections)
        builder.Bool("use_regular_nms", True)
        builder.Float("nms_score_threshold", settings.score_threshold)
        builder.Float("nms_iou_threshold", settings.iou_threshold)
        builder.Int("num_classes", num_classes)
        for name, scale in (("y_scale", 10), ("x_scale", 10), ("h_scale", 5), ("w_scale", 5)):
            builder.Float(name, scale)  # 1 / variance
    return builder.Finish()


def _unpack(content: bytes) -> schema.ModelT:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # its content lies behind the flatbuffer, as the quantizer puts it
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(content[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0
    return model


def _pack(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
