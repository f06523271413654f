"""Small networks and images for the tests of what is exported."""

from importlib.util import find_spec

import torch
from small_networks import build_small
from torch import Tensor, nn

from vision.ssd.ssd import SSD
from vision.transforms.normalize import normalize_images

CLASSES = [
    {"label": i, "category_id": 10 * i, "original_category_id": 10 * i, "name": name}
    for i, name in enumerate(("cat", "dog", "owl"), start=1)
]

# The file of each target that can be made here, without what all names begin with.
TARGETS = {"jetson": "jetson.onnx", "onnx": "onnx.onnx", "onnx-int8": "onnx-int8.onnx"}
if find_spec("openvino"):
    TARGETS |= {"openvino": "openvino.xml", "openvino-int8": "openvino-int8.xml"}
if find_spec("litert_torch"):
    TARGETS |= {"tflite": "tflite.tflite", "tflite-int8": "tflite-int8.tflite"}


def opinionated(name: str = "mb2-ssd-lite", **options) -> SSD:
    """A small network whose scores differ from prior to prior, and are neither 0 nor 1."""
    torch.manual_seed(1)
    model = build_small(name, **{"num_classes": 4, **options})
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = 1.0  # the statistics of one batch
    images = pixels(model, num_images=4).permute(0, 3, 1, 2)
    inputs = normalize_images(images, **vars(model.network.normalization))
    with torch.no_grad():
        if norms:
            model.train()(inputs)
        for norm in norms:  # channels that hardly vary would make rounding errors large
            norm.running_var.clamp_(min=float(norm.running_var.mean()))
        cls_logits, _ = model.eval()(inputs)
        for head in model.classification_headers:
            *_, last = (module for module in head.modules() if isinstance(module, nn.Conv2d))
            last.weight.div_(cls_logits.std())
            last.bias.div_(cls_logits.std())
    return model


def pixels(model: SSD, *, num_images: int = 2) -> Tensor:
    """Smooth random images, uint8 [B, H, W, 3]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_images, 3, 6, 6, generator=generator)
    images = nn.functional.interpolate(coarse, model.image_size, mode="bilinear") * 255
    return images.round().to(torch.uint8).permute(0, 2, 3, 1)


def as_detectnet_feeds(images: Tensor) -> Tensor:
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
