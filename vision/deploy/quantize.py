"""Static int8 quantization of an exported network, by onnxruntime."""

import contextlib
import copy
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from vision.engine.metrics import show_progress

logger = logging.getLogger(__name__)
_NUM_COMPARED = 8  # images
# Root mean square of the change of all priors' scores. Of three networks of the blood cells the
# groups that change them most do it by 0.0013 to 0.0019, and with all in int8 AP is what it was.
MOST_CHANGED = 0.005
_OPERATORS = ("Conv", "Clip", "Relu")  # Clip is ReLU6


def quantize(
    export: Callable[[tuple[str, ...]], onnx.ModelProto],
    images: Sequence[np.ndarray],
    *,
    layers: Sequence[str],
    keep_float: Sequence[str] | None = None,
) -> tuple[onnx.ModelProto, list[str]]:
    """Make the convolutions int8: QDQ format, weights by channel, activations by tensor.

    What is behind them stays float, and each map's scores and offsets have a scale of their own.

    Args:
        export: makes a `DetectionForm`'s model with weights that int8 holds exactly, but for those
            whose names begin with one of the texts it is given.
        images: uint8 [H, W, 3] of the input's size, like those that will come.
        layers: names of the convolutions, in the order of the graph (`conv_names`).
        keep_float: groups of layers that stay float, as `groups` names them; None: those that in
            int8, all others float, change the scores by more than MOST_CHANGED. To find them takes
            a second for each group.

    Returns:
        The quantized model, and the groups that stayed float.

    Raises:
        ValueError: `keep_float` names a group that there is not.
    """
    model = _exported(export, keep_float or ())
    nodes = groups(model, layers)
    unknown = set(keep_float or ()) - set(nodes)
    if unknown:
        raise ValueError(
            f"--keep-float {sorted(unknown)[0]}: no such layers; there are {', '.join(nodes)}"
        )
    ranges = _calibrate(model, images)
    if keep_float is None:
        changes = _score_changes(model, ranges, nodes, images[:_NUM_COMPARED])
        keep_float = [group for group in nodes if changes[group] > MOST_CHANGED]
        worst = max(nodes, key=changes.get)
        logger.info(
            "int8: %s float; %s alone changes the scores most, by %.4f, and up to %.4f is accepted",
            f"{', '.join(keep_float) or 'nothing'} stays", worst, changes[worst], MOST_CHANGED,
        )  # fmt: skip
        if keep_float:  # these get their own weights back
            model = _exported(export, keep_float)
            ranges = _calibrate(model, images)
    chosen = [name for group in nodes if group not in keep_float for name in nodes[group]]
    return _with_int8(model, ranges, chosen), list(keep_float)


def groups(model: onnx.ModelProto, layers: Sequence[str]) -> dict[str, list[str]]:
    """Return the convolutions' nodes by the part of the network they are in: base_net.0, ...

    Args:
        model: exported; its convolutions are in the order in which the network runs them.
        layers: their names in the network, in this order.
    """
    found: dict[str, list[str]] = {}
    nodes = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for node, layer in zip(nodes, layers, strict=True):
        modules = layer.split(".")
        numbered = [any(c.isdigit() for c in name) for name in modules]
        end = numbered.index(True) + 1 if any(numbered) else len(modules)
        found.setdefault(".".join(modules[:end]), []).append(node)
    return found


def _exported(
    export: Callable[[tuple[str, ...]], onnx.ModelProto], keep_float: Sequence[str]
) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(export(tuple(f"{group}." for group in keep_float)))


class _Images(CalibrationDataReader):
    """Feeds images to onnxruntime's calibration, one at a time."""

    def __init__(self, name: str, images: Iterable[np.ndarray]):
        self._feeds = ({name: image[None]} for image in images)

    def get_next(self) -> dict | None:
        """Return the next {input name: image [1, H, W, 3]}; None at the end."""
        return next(self._feeds, None)


def _calibrate(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> TensorsData:
    """Find the smallest and largest value of each tensor around a convolution."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path)
        calibrator = create_calibrator(
            path,
            list(_OPERATORS),
            augmented_model_path=str(path.with_name("augmented.onnx")),
        )
        calibrator.collect_data(_Images(model.graph.input[0].name, show_progress(images, "ranges")))
        ranges = calibrator.compute_data()
    first = _first_conv(model.graph).input[0]
    way = _way_of_pixels(model.graph, first)
    if way:  # int8 with the scale 1 and the mean for its zero holds what the image has
        lowest, highest = np.float32(-way.mean), np.float32(255 - way.mean)
        ranges[first] = TensorData(lowest=lowest, highest=highest)
    return ranges


class _WayOfPixels(NamedTuple):
    """What an image goes through to become `pixel - mean`, last node first."""

    nodes: list[onnx.NodeProto]
    mean: int


def _first_conv(graph: onnx.GraphProto) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == "Conv")


def _way_of_pixels(graph: onnx.GraphProto, name: str) -> _WayOfPixels | None:
    """Return the way to a tensor that is `pixel - mean`, with a mean that uint8 has, or None."""
    sources = {output: node for node in graph.node for output in node.output}
    shifts = {tensor.name: tensor for tensor in graph.initializer}
    nodes, means = [], []
    while name != graph.input[0].name:
        node = sources.get(name)
        if node is None or node.op_type not in ("Reshape", "Transpose", "Cast", "Add"):
            return None
        if node.op_type == "Add":
            means += np.unique(-onnx.numpy_helper.to_array(shifts[node.input[1]])).tolist()
        nodes.append(node)
        name = node.input[0]
    is_exact = len(means) == 1 and means[0] in range(256)
    return _WayOfPixels(nodes, int(means[0])) if is_exact else None


def _take_pixels(graph: onnx.GraphProto) -> None:
    """Let a first convolution in int8 take the bytes of the image instead of rounding them anew."""
    sources = {output: node for node in graph.node for output in node.output}
    from_int8 = sources.get(_first_conv(graph).input[0])
    to_int8 = sources.get(from_int8.input[0]) if from_int8 is not None else None
    if to_int8 is None or to_int8.op_type != "QuantizeLinear":
        return
    way = _way_of_pixels(graph, to_int8.input[0])
    if way is None:
        return
    was_float = {output for node in way.nodes for output in node.output}
    for gone in [to_int8, *(node for node in way.nodes if node.op_type in ("Add", "Cast"))]:
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == gone.output[0]:
                    node.input[place] = gone.input[0]
        graph.node.remove(gone)
    for value in [value for value in graph.value_info if value.name in was_float]:
        graph.value_info.remove(value)


def _with_int8(model: onnx.ModelProto, ranges: TensorsData, nodes: list[str]) -> onnx.ModelProto:
    """Make the convolutions called `nodes` int8; an activation behind one becomes its range."""
    outputs = {node.output[0] for node in model.graph.node if node.name in nodes}
    activations = [
        node.name
        for node in model.graph.node
        if node.op_type in _OPERATORS and node.op_type != "Conv" and node.input[0] in outputs
    ]
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=True,  # of weights: see LARGEST_ON_X86, also for those that have all 8 bits
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[*nodes, *activations],
        nodes_to_exclude=[],
        op_types_to_quantize=list(_OPERATORS),
        extra_options={"TensorQuantOverrides": _all_8_bits(model)},
    )
    with _no_notes():
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized = quantizer.model.model
    _take_pixels(quantized.graph)
    used = {name for node in quantized.graph.node for name in node.input}
    for node in list(quantized.graph.node):
        if node.op_type == "Constant" and node.output[0] not in used:
            quantized.graph.node.remove(node)  # the limits of a Clip that is gone
    for tensor in [item for item in quantized.graph.initializer if item.name not in used]:
        quantized.graph.initializer.remove(tensor)
    return quantized


def _all_8_bits(model: onnx.ModelProto) -> dict[str, list[dict]]:
    """Return what QDQQuantizer wants to hear of the weights of depthwise convolutions."""
    how = {"quant_type": QuantType.QInt8, "axis": 0, "reduce_range": False}
    return {
        node.input[1]: [how]
        for node in model.graph.node
        if node.op_type == "Conv" and any(x.name == "group" and x.i > 1 for x in node.attribute)
    }


@contextlib.contextmanager
def _no_notes() -> Iterator[None]:
    """Silence what onnxruntime logs about single weights."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)


def _score_changes(
    model: onnx.ModelProto,
    ranges: TensorsData,
    nodes: dict[str, list[str]],
    images: Sequence[np.ndarray],
) -> dict[str, float]:
    """Make one group at a time int8: the root mean square change of all priors' scores."""
    expected = all_scores(model, images)
    changes = {}
    for group in show_progress(list(nodes), "int8"):
        scores = all_scores(_with_int8(model, ranges, nodes[group]), images)
        changes[group] = float(np.sqrt(np.square(scores - expected).mean()))
    return changes


def all_scores(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the softmax of every prior: float32 [I, 1, P, C+1].

    The graph computes it only for the priors that it has chosen.

    Args:
        model: exported from a `DetectionForm`.
        images: I images, uint8 [H, W, 3] of the input's size.
    """
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    (chosen,) = (node for node in model.graph.node if node.output[0] == softmax.input[0])
    assert chosen.op_type == "GatherElements", chosen.op_type
    logits = chosen.input[0]
    model = copy.deepcopy(model)
    model.graph.output.append(onnx.ValueInfoProto(name=logits))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = model.graph.input[0].name
    found = np.stack([session.run([logits], {name: image[None]})[0] for image in images])
    odds = np.exp(found - found.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)
