"""The seven networks of qfgaohao's pytorch-ssd: keys, priors and output as the original's.

`golden/networks` was made by running the original toolkit with 5 classes, in eval mode, on weights
and images that the functions here make again. See `golden/networks/README.md`.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from script_runs import FAST, call

from vision.datasets.sample import write_sample_dataset
from vision.nn.cpu.optimize import optimize_for_training
from vision.runs.checkpoint import read_checkpoint
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model

GOLDEN = Path(__file__).parent / "golden/networks"
KEYS = json.loads((GOLDEN / "keys.json").read_text(encoding="utf-8"))
PRIORS = {"vgg16-ssd": "vgg16", "sq-ssd-lite": "squeezenet"}  # the others have the same ones


def recipe_weights(shapes):
    """Make the weights that the golden output was made with, from the state dict's shapes."""
    weights = {}
    for seed, name in enumerate(sorted(shapes)):
        shape = tuple(shapes[name])
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
            continue
        if name.endswith("running_var"):
            x = abs(x) * np.float32(0.5) + np.float32(0.5)
        elif name.endswith("running_mean"):
            x = x * np.float32(0.1)
        elif len(shape) > 1:
            x = x * np.sqrt(2 / np.prod(shape[1:])).astype(np.float32)
        elif name.endswith("weight"):
            x = x * np.float32(0.1) + np.float32(1)
        else:
            x = x * np.float32(0.05)
        weights[name] = torch.from_numpy(x)
    return weights


@cache
def golden_images():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 300, 300, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).float()


def within(ours, theirs, largest):
    return (ours - torch.from_numpy(theirs)).abs().max().item() / float(largest)


@pytest.mark.parametrize("name", KEYS)
def test_keys_priors_and_output_are_the_familys(name):
    model = build_model(name, num_classes=5, image_size=(300, 300)).eval()
    assert {key: list(x.shape) for key, x in model.state_dict().items()} == KEYS[name]
    model.load_state_dict(recipe_weights(KEYS[name]))

    golden = np.load(GOLDEN / f"{name}.npz")
    normalization = model.network.normalization
    assert normalization.mean == tuple(golden["mean"])
    assert normalization.std == (float(golden["std"]),) * 3

    priors = np.load(GOLDEN / "priors.npz")[PRIORS.get(name, "mobilenet")]
    assert model.priors_cxcywh.shape == priors.shape
    assert within(model.priors_cxcywh, priors, 1) <= 1e-6

    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    images = ((golden_images() - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        cls_logits, bbox_regression = model(images)
    rows = torch.from_numpy(golden["rows"])
    largest = golden["logits_abs_max"], golden["offsets_abs_max"]
    assert within(cls_logits[:, rows], golden["cls_logits"], largest[0]) <= 1e-4
    assert within(bbox_regression[:, rows], golden["bbox_regression"], largest[1]) <= 1e-4
    assert within(cls_logits.abs().max(), largest[0], largest[0]) <= 1e-4
    assert within(bbox_regression.abs().max(), largest[1], largest[1]) <= 1e-4


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_convolution_gets_a_gradient(name, precision):
    torch.manual_seed(0)
    model = build_model(name, num_classes=3, image_size=(96, 96)).train()
    optimize_for_training(model)
    loss_fn = MultiBoxLoss(model.priors_cxcywh, image_size=(96, 96), iou_threshold=0.4)
    sides = torch.arange(8.0, 97, 8)  # boxes of all sizes: each map's heads have something to learn
    boxes = torch.cat([torch.zeros(len(sides), 2), sides[:, None].expand(-1, 2)], dim=1)
    target = {
        "boxes": boxes,
        "labels": torch.ones(len(boxes), dtype=torch.long),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
    }
    normalization = model.network.normalization
    pixels = golden_images()[:, :96, :96].permute(0, 3, 1, 2)
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        output = model(images)
    loss_fn(*output, [target, target])["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        if parameter.dim() > 1:  # a bias before a BatchNorm has none
            assert parameter.grad.abs().max() > 0, key


def train(root, run, *flags):
    recipe = [flag for flag in FAST if "width" not in flag and "epochs" not in flag]
    flags = [*recipe, "--scheduler=none", "--warmup-epochs=0", *flags]
    result = call("train_ssd", "--datasets", root, "--checkpoint-folder", run, *flags)
    assert (result.code, result.errors) == (0, [])


@pytest.mark.parametrize("name", ["mb1-ssd-lite", "mb3-small-ssd-lite", "sq-ssd-lite"])
def test_it_trains_resumes_and_evaluates(name, tmp_path):
    data, straight, resumed = (tmp_path / folder for folder in ("data", "straight", "resumed"))
    write_sample_dataset(data, num_train=4, num_val=2, image_size=(90, 120))
    train(data, straight, f"--net={name}", "--epochs=2")
    train(data, resumed, f"--net={name}", "--epochs=1")
    result = call("train_ssd", "--resume", resumed, "--epochs=2")
    assert (result.code, result.errors) == (0, [])
    ends = [read_checkpoint(run / "checkpoint_last.pt")["model"] for run in (straight, resumed)]
    assert all(torch.equal(x, ends[1][key]) for key, x in ends[0].items())

    found = tmp_path / "found"
    weights = resumed / "checkpoint_last.pt"
    result = call("eval_ssd", "--trained-model", weights, "--dataset", data, "--output-dir", found)
    assert (result.code, result.errors) == (0, [])
    last = json.loads((resumed / "metrics.jsonl").read_text().splitlines()[-1])
    metrics = json.loads((found / "metrics.json").read_text())
    assert metrics["AP50"] == pytest.approx(last["AP50"], abs=1e-6)
