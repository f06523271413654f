"""OpenVINO's files: made of an ONNX network, with what they say of themselves inside."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import openvino
from openvino import opset13 as ops
from openvino.preprocess import ColorFormat, PrePostProcessor

from vision.deploy.detect import PROPERTIES_IN_XML
from vision.files.guarded import read_regular


def read(network: onnx.ModelProto) -> openvino.Model:
    """Take an ONNX network over; one in int8 (QDQ) stays in int8, with the same ranges."""
    return openvino.Core().read_model(network.SerializeToString())


def as_frigate_reads(model: openvino.Model) -> openvino.Model:
    """Give a `DetectionForm` the input and the one output that Frigate's reader of SSDs wants.

    Source: frigate/detectors/plugins/openvino.py of blakeblackshear/frigate at 6df541e1fd98 and at
    0592c8b0e24e, and the model block that its documentation gives for OpenVINO.

    Args:
        model: uint8 [1, H, W, 3] RGB to boxes [1, N, 4], scores [1, N] and labels [1, N].

    Returns:
        uint8 [1, S, S, 3] BGR to [1, 1, N, 7]: image (0, or -1 for a row that is no detection),
        label, score, x1, y1, x2, y2 in 0..1; the best first.

    Raises:
        ValueError: an input that is not square.
    """
    _, height, width, _ = model.input().shape
    if height != width:
        raise ValueError(
            f"--frigate: its reader wants a square input, this network has {height}x{width}; "
            "--image-size changes it"
        )
    boxes, scores, labels = (output.node.input_value(0) for output in model.outputs)
    last = np.int64(2)
    score = ops.unsqueeze(scores, last)
    image = ops.subtract(ops.sign(score), np.float32(1))
    label = ops.unsqueeze(ops.convert(labels, "f32"), last)
    rows = ops.unsqueeze(ops.concat([image, label, score, boxes], 2), np.int64(1))
    rows.output(0).set_names({"detections"})
    preparation = PrePostProcessor(openvino.Model([rows], model.get_parameters()))
    entry = preparation.input()
    entry.tensor().set_layout(openvino.Layout("NHWC")).set_color_format(ColorFormat.BGR)
    entry.preprocess().convert_color(ColorFormat.RGB)
    entry.model().set_layout(openvino.Layout("NHWC"))
    return preparation.build()


def encode(model: openvino.Model, about: Mapping) -> dict[str, bytes]:
    """Return the bytes of the .xml and the .bin file; a JSON value for each key of `about`."""
    for key, value in about.items():
        model.set_rt_info(json.dumps(value), [PROPERTIES_IN_XML, key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return {suffix: read_regular(path.with_suffix(suffix)) for suffix in (".xml", ".bin")}
