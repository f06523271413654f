"""From a network to files for other runtimes: one entry of TARGETS for each kind of file."""

import copy
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch

from vision import __version__
from vision.deploy import device_script, onnx_file
from vision.deploy.device_script import script_beside
from vision.deploy.export_form import (
    DETECTNET_INPUT,
    PIXELS,
    BestClassForm,
    DetectionForm,
    HeadsForm,
    PlainForm,
)
from vision.deploy.four_pixel_conv import with_four_pixel_conv
from vision.deploy.int8_weights import LARGEST_ON_X86, conv_names, round_weights
from vision.deploy.onnx_file import export_onnx
from vision.evaluation.exported import SCORE_THRESHOLD
from vision.evaluation.thresholds import preferred
from vision.files.atomic_file import write_atomically
from vision.ssd.network import Normalization
from vision.ssd.ssd import SSD

T = TypeVar("T")
ROUNDING_IMAGES = 16  # which biases are corrected with
MOST_TFLITE_CALIBRATION_IMAGES = 60  # its quantizer takes about a second for each


@dataclass(frozen=True)
class ExportOptions:
    """What flags say about the files; of one network.

    Attributes:
        score_threshold: what the files recommend; None: of each class what its `thresholds` say,
            and 0.5 where there are none.
        iou_threshold: of the suppression; None: the network's.
        plain: for jetson: all priors, without suppression.
        any_batch: for onnx: leave the number of images open.
        raw_heads: for tflite: scores, encodings and priors instead of the operator's detections.
        frigate: for openvino: input and output as Frigate's reader of SSDs has them.
        calibration: for int8: uint8 [H, W, 3] images of the input's size.
        keep_float: for int8: groups of layers that stay float; None: they are looked for.
    """

    score_threshold: float | None = None
    iou_threshold: float | None = None
    plain: bool = False
    any_batch: bool = False
    raw_heads: bool = False
    frigate: bool = False
    calibration: Sequence[np.ndarray] | None = None
    keep_float: Sequence[str] | None = None
    _shared: dict[str, object] = field(default_factory=dict)

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returns; it is called once for all files of one network."""
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]


# Takes what a file says of itself; returns the bytes of its parts by suffix, the main part first.
Encode = Callable[[dict], dict[str, bytes]]


@dataclass
class Export:
    """A file that is not written yet.

    Attributes:
        stem: its name without suffix.
        encode: makes its content.
        about: what it says of itself, inside and in the JSON beside it.
        texts: other files that belong to it, as lines by name.
    """

    stem: str
    encode: Encode
    about: dict
    texts: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: Path, *, name: str | None = None) -> Path:
        """Write the file, its JSON, labels.txt and detect.py into a folder; each at once or not.

        Args:
            folder: it is made where it is not there.
            name: of the file; None: its own.

        Returns:
            The file's path.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = [item["name"] for item in self.about["classes"]]
        write_lines(folder / "labels.txt", ["BACKGROUND", *names])
        write_atomically(folder / device_script.NAME, script_beside(folder, self.about))
        parts = self.encode(self.about)
        path = folder / (name or self.stem + next(iter(parts)))
        for suffix, content in reversed(parts.items()):  # the first one is of no use alone
            write_atomically(path.with_suffix(suffix) if len(parts) > 1 else path, content)
        for file, lines in self.texts.items():
            write_lines(folder / file, lines)
        text = json.dumps(self.about, indent=2) + "\n"
        write_atomically(path.with_suffix(".json"), text.encode())
        return path


Build = Callable[[SSD, ExportOptions, dict], Encode]


def build_export(
    target: str, model: SSD, classes: list[dict], options: ExportOptions, *, trained_model: str
) -> Export:
    """Make the file of a target.

    Args:
        target: a name of TARGETS.
        model: the network, on the CPU.
        classes: dicts of label, category_id, original_category_id and name, and of thresholds
            where they are known.
        options: what flags say.
        trained_model: where the network comes from, for the file's description.

    Raises:
        ValueError: the options do not fit.
    """
    settings = model.network.postprocessing.changed(iou_threshold=options.iou_threshold)
    about = {
        "target": target,
        "network": model.network.name,
        "trained_model": Path(trained_model).name,
        "classes": [_about_class(item, options) for item in classes],
        "image_size": list(model.image_size),
        "resize": model.network.resize,
        "tiles": model.network.tiles,
        "score_threshold": (
            SCORE_THRESHOLD if options.score_threshold is None else options.score_threshold
        ),
        "iou_threshold": settings.iou_threshold,
        "box_voting": settings.voting_iou,
        "toolkit_version": __version__,
        "measured": None,
    }
    encode = TARGETS[target](model, options, about)
    return Export(f"{model.network.name}-{target}", encode, about, _texts(model, about))


def _about_class(item: dict, options: ExportOptions) -> dict:
    keys = ("label", "category_id", "name", "thresholds")
    about = {key: item[key] for key in keys if key in item}
    if options.score_threshold is None and about.get("thresholds"):
        about["threshold"] = preferred(about["thresholds"])
    return about


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def _texts(model: SSD, about: dict) -> dict[str, list[str]]:
    """Return what readers of TFLite files want besides."""
    texts = {}
    if about["target"].startswith("tflite"):  # the operator counts without the background
        texts["labelmap.txt"] = [item["name"] for item in about["classes"]]
    if about.get("raw_heads"):
        rows = model.priors_cxcywh[:, [1, 0, 3, 2]].tolist()
        texts["priors.txt"] = [" ".join(f"{value:.8f}" for value in row) for row in rows]
    return texts


def detectnet_command(path: Path, about: dict) -> str:
    """Return the whole command that shows a jetson file's detections on the device."""
    return " ".join(
        [
            "detectnet",
            f"--model={shlex.quote(path.name)}",
            "--labels=labels.txt",
            "--input-blob=input_0",
            "--output-cvg=scores",
            "--output-bbox=boxes",
            f"--threshold={min(recommended(about)):g}",  # it has one for all classes
            "csi://0",
        ]
    )


def recommended(about: dict) -> list[float]:
    """Return the score to ask for of each class."""
    return [item.get("threshold", about["score_threshold"]) for item in about["classes"]]


def frigate_config(path: Path, about: dict) -> str:
    """Return the lines of Frigate's configuration that make it use a file of --frigate."""
    height, width = about["image_size"]
    names = [json.dumps(item["name"]) for item in about["classes"]]
    filters = "".join(
        f"\n    {name}: {{min_score: {score:g}, threshold: {score:g}}}"
        for name, score in zip(names, recommended(about), strict=True)
    )
    return f"""detectors:
  ov:
    type: openvino
    device: CPU
model:
  path: /config/model_cache/{path.name}
  labelmap_path: /config/model_cache/labels.txt
  width: {width}
  height: {height}
  input_tensor: nhwc
  input_pixel_format: bgr
objects:
  track: [{", ".join(names)}]
  filters:{filters}"""


def _build_jetson(model: SSD, options: ExportOptions, about: dict) -> Encode:
    about |= _input("input_0", "float32 [1, 3, H, W] RGB", DETECTNET_INPUT)
    if options.plain:
        about["box_voting"] = 0.0
        form = PlainForm(model)
    else:
        settings = model.network.postprocessing.changed(iou_threshold=about["iou_threshold"])
        form = BestClassForm(model, settings)
    about["suppressed"] = not options.plain
    example = torch.zeros(1, 3, *model.image_size)
    return partial(
        onnx_file.encode,
        export_onnx(form, example, input_name="input_0", output_names=["scores", "boxes"]),
    )


def _build_onnx(model: SSD, options: ExportOptions, about: dict) -> Encode:
    return partial(onnx_file.encode, _detections_onnx(model, about, any_batch=options.any_batch))


def _build_onnx_int8(model: SSD, options: ExportOptions, about: dict) -> Encode:
    return partial(onnx_file.encode, _int8_onnx(model, options, about))


def _build_openvino(model: SSD, options: ExportOptions, about: dict) -> Encode:
    about["frigate"] = options.frigate
    return _encode_openvino(_detections_onnx(model, about), about)


def _build_openvino_int8(model: SSD, options: ExportOptions, about: dict) -> Encode:
    about["frigate"] = options.frigate
    # OpenVINO takes three channels as they are: 7.6 ms, and 8.8 with a convolution of four pixels
    # (mb2-ssd-lite at 300 px, one thread of an EPYC with VNNI).
    return _encode_openvino(_int8_onnx(model, options, about, four_pixels=False), about)


def _encode_openvino(network: onnx.ModelProto, about: dict) -> Encode:
    from vision.deploy import openvino_file  # of an extra, which other targets do not need

    model = openvino_file.read(network)
    if about["frigate"]:
        model = openvino_file.as_frigate_reads(model)
        about["input"]["layout"] = "uint8 [1, H, W, 3] BGR"
    return partial(openvino_file.encode, model)


def _build_tflite(model: SSD, options: ExportOptions, about: dict) -> Encode:
    from vision.deploy import tflite_file  # of an extra, which other targets do not need

    is_int8 = about["target"] == "tflite-int8"
    if is_int8:
        _check_calibration(options, about)
    about |= _input("images", "uint8 [1, H, W, 3] RGB", PIXELS)
    about["raw_heads"] = options.raw_heads
    if not options.raw_heads:
        about["box_voting"] = 0.0  # the operator has none
    example = torch.zeros(1, *model.image_size, 3, dtype=torch.uint8)
    if is_int8:
        images = _at_most(MOST_TFLITE_CALIBRATION_IMAGES, options.calibration)
        form = HeadsForm(_with_int8_weights(model, options))
        heads = tflite_file.quantize(tflite_file.convert(form, example), images)
        about["calibration_images"] = len(images)
    else:
        heads = tflite_file.convert(HeadsForm(model), example)
    priors = model.priors_cxcywh[:, [1, 0, 3, 2]].numpy()
    if options.raw_heads:
        content = tflite_file.append_priors(heads, priors)
    else:
        settings = model.network.postprocessing.changed(iou_threshold=about["iou_threshold"])
        content = tflite_file.append_detection(heads, priors, settings)
    return partial(tflite_file.encode, content)


def _at_most(number: int, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Take some, spread over all."""
    return images[:: math.ceil(len(images) / number)]


def _with_int8_weights(model: SSD, options: ExportOptions, **how: Any) -> SSD:
    """Round the weights; `how` as for `round_weights`."""
    return round_weights(model, _at_most(ROUNDING_IMAGES, options.calibration), **how)


def _detections_onnx(model: SSD, about: dict, *, any_batch: bool = False) -> onnx.ModelProto:
    about |= _input("images", "uint8 [B, H, W, 3] RGB", PIXELS)
    settings = model.network.postprocessing.changed(iou_threshold=about["iou_threshold"])
    return export_onnx(
        DetectionForm(model, settings),
        torch.zeros(1, *model.image_size, 3, dtype=torch.uint8),
        input_name="images",
        output_names=["boxes", "scores", "labels"],
        any_batch=any_batch,
    )


def _check_calibration(options: ExportOptions, about: dict) -> None:
    if not options.calibration:
        raise ValueError(
            f"{about['target']} needs images of the training split to find the ranges of its "
            "numbers: give the data set with --dataset ROOT"
        )


def _int8_onnx(
    model: SSD, options: ExportOptions, about: dict, *, four_pixels: bool = True
) -> onnx.ModelProto:
    from vision.deploy.quantize import quantize  # onnxruntime's, which other targets do not need

    _check_calibration(options, about)
    layers = conv_names(model)

    def export(keep_float: tuple[str, ...]) -> onnx.ModelProto:
        """Export the network with rounded weights, but for layers of these names."""
        rounded = _with_int8_weights(model, options, largest=LARGEST_ON_X86, keep_float=keep_float)
        if four_pixels and not layers[0].startswith(keep_float):
            rounded = with_four_pixel_conv(rounded, layers[0])
        return _detections_onnx(rounded, about)

    def make() -> tuple[onnx.ModelProto, list[str]]:
        """Quantize the network; also return its float layers, which the first file finds."""
        found = options.shared("float layers", dict)
        keep_float = found.get("int8", options.keep_float)
        quantized, found["int8"] = quantize(
            export, options.calibration, layers=layers, keep_float=keep_float
        )
        return quantized, found["int8"]

    quantized, about["float_layers"] = options.shared(f"int8, four pixels: {four_pixels}", make)
    about |= _input("images", "uint8 [B, H, W, 3] RGB", PIXELS)
    about["calibration_images"] = len(options.calibration)
    return copy.deepcopy(quantized)  # each file writes of itself into its own


TARGETS: dict[str, Build] = {
    "jetson": _build_jetson,
    "onnx": _build_onnx,
    "onnx-int8": _build_onnx_int8,
    "openvino": _build_openvino,
    "openvino-int8": _build_openvino_int8,
    "tflite": _build_tflite,
    "tflite-int8": _build_tflite,
}


def _input(name: str, layout: str, normalization: Normalization) -> dict:
    """Describe the input; what is left to the network's own normalisation is in the file."""
    mean, std = list(normalization.mean), list(normalization.std)
    return {"input": {"name": name, "layout": layout, "mean": mean, "std": std}}
