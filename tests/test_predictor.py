"""The predictor: every kind of input gives what evaluation would, and folding changes nothing."""

from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from small_networks import build_small
from torch import nn

from vision.deploy.predictor import Predictor
from vision.nn.cpu.inference_conv2d import InferenceConv2d
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ssd.models import MODELS
from vision.ssd.postprocess import postprocess
from vision.transforms.normalize import normalize_images
from vision.transforms.presets import build_eval_transform

NAMES = ["cat", "dog"]
SIZE = (96, 128)


def trained(
    name: str = "mb2-ssd-lite", *, weights: tuple = (0.5, 2), variances: tuple = (0.1, 0.5)
) -> nn.Module:
    """A small network whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    model = build_small(name, image_size=SIZE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, *weights)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, *variances)
    return model.eval()


def read_png(path) -> np.ndarray:
    return np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])


def resize(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_LINEAR)


def build_predictor(model: nn.Module, **options) -> Predictor:
    options = {"score_threshold": 0.3, **options}
    normalize = partial(normalize_images, **vars(model.network.normalization))
    return Predictor(
        model, NAMES, read_image=read_png, resize=resize, normalize=normalize, **options
    )


def random_image(seed: int, size=(60, 90)) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(image, (9, 9), 3)


def assert_same(a: dict, b: dict) -> None:
    assert a["names"] == b["names"]
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(a[key], b[key], atol=1e-3, rtol=1e-4)


def pairs(model: nn.Module) -> set[tuple[type, type]]:
    """The kinds of layers that stand behind one another in the model's Sequentials."""
    blocks = [module for module in model.modules() if isinstance(module, nn.Sequential)]
    return {(type(a), type(b)) for block in blocks for a, b in pairwise(block)}


@pytest.mark.parametrize("name", MODELS)
def test_folding_gives_the_same_output_without_batch_norm_behind_convolutions(name):
    # Such that logits stay small: mb3-large-ssd-lite would turn rounding into a difference of 13.
    model = trained(name, weights=(0.5, 1.5), variances=(0.5, 1))
    images = torch.rand(2, 3, *model.image_size) * 2 - 1
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = optimize_for_inference(model)
    assert not {(nn.Conv2d, nn.BatchNorm2d), (InferenceConv2d, nn.BatchNorm2d)} & pairs(folded)
    was_there = (nn.Conv2d, nn.BatchNorm2d) in pairs(model)
    assert ((InferenceConv2d, nn.Identity) in pairs(folded)) == was_there
    with torch.no_grad():
        expected, result = model(images), folded(images)
    assert expected[0].std() > 0.1
    for wanted, got in zip(expected, result, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    for key, value in model.state_dict().items():  # the model itself is as it was
        assert torch.equal(value, before[key])


def test_array_path_and_batch_agree(tmp_path):
    predictor = build_predictor(trained())
    images = [
        random_image(seed, size) for seed, size in enumerate([(60, 90), (200, 50), (96, 128)])
    ]
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), images[0][:, :, ::-1])
    alone = [predictor(image) for image in images]
    assert all(len(result["scores"]) for result in alone)
    for result, expected in zip(predictor(images), alone, strict=True):
        assert_same(result, expected)
    assert_same(predictor(path), alone[0])
    assert_same(predictor([str(path), images[1]])[0], alone[0])
    assert predictor([]) == []


def test_batches_are_cut_to_the_batch_size():
    images = [random_image(seed) for seed in range(5)]
    model = trained()
    predictor, batches = build_predictor(model, batch_size=2), []
    predictor._model.register_forward_hook(lambda _, inputs, output: batches.append(inputs[0]))
    for result, expected in zip(predictor(images), build_predictor(model)(images), strict=True):
        assert_same(result, expected)
    assert [len(batch) for batch in batches] == [2, 2, 1]


def test_same_as_evaluation():
    model = trained()
    image = random_image(3, (240, 320))
    target = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int64),
        "iscrowd": np.zeros(0, bool),
    }
    pixels, _ = build_eval_transform(SIZE)(image, target, np.random.default_rng(0))
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        output = model(normalize_images(images, **vars(model.network.normalization)))
    expected = postprocess(
        *output, model.priors_cxcywh, torch.tensor([[240, 320]]), score_threshold=0.3
    )[0]
    result = build_predictor(model)(image)
    torch.testing.assert_close(result["scores"], expected["scores"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result["boxes"], expected["boxes"], atol=1e-2, rtol=1e-4)
    assert result["names"] == [NAMES[label - 1] for label in expected["labels"]]


def test_boxes_are_in_pixels_of_the_image_given():
    """The same picture at twice the size gives boxes twice as large."""
    image = np.kron(random_image(0, (48, 64)), np.ones((2, 2, 1), np.uint8))
    large = np.kron(image, np.ones((2, 2, 1), np.uint8))
    predictor = build_predictor(trained(), score_threshold=0.35)
    small_boxes, large_boxes = predictor(image)["boxes"], predictor(large)["boxes"]
    assert large_boxes.amax() > 1.5 * small_boxes.amax()
    assert large_boxes[:, 2].max() <= 256
    assert large_boxes[:, 3].max() <= 192


def test_bfloat16_scores_are_close():
    model = trained()
    image = random_image(1)
    full = build_predictor(model, score_threshold=0.0)(image)
    predictor, outputs = build_predictor(model, score_threshold=0.0, dtype=torch.bfloat16), []
    predictor._model.register_forward_hook(lambda _, inputs, output: outputs.extend(output))
    half = predictor(image)
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 2
    assert {x.dtype for x in predictor._model.parameters()} == {torch.bfloat16}
    assert half["boxes"].dtype == torch.float32
    torch.testing.assert_close(half["scores"][:20], full["scores"][:20], atol=0.1, rtol=0)
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.float32)],
    ids=["gray", "alpha", "float"],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        build_predictor(trained())(image)
