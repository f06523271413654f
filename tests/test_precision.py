"""Devices and number formats by name."""

import pytest
import torch

from vision.engine.machine_limits import explain
from vision.engine.optim import Schedule, build_optimizer
from vision.engine.precision import autocast, choose_device, choose_precision
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model

CPU, GPU, APPLES = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "", "cpu:x", "xpu:77"])
def test_devices_that_cannot_be_used_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="--device") as error:
        choose_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "has_cuda", "has_mps", "expected"),
    [
        ("cpu", True, True, "cpu"),
        ("auto", True, True, "cuda:1"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cuda", True, False, "cuda:1"),
        ("cuda:0", True, False, "cuda:0"),
    ],
)
def test_devices_of_the_second_process(monkeypatch, name, has_cuda, has_mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    # The device is tried out, and need not be here.
    monkeypatch.setattr(torch, "zeros", lambda size, device: torch.ones(size))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(choose_device(name)) == expected


def test_fp16_needs_a_gpu():
    with pytest.raises(ValueError, match="--precision fp16 needs"):
        choose_precision("fp16", CPU)
    assert choose_precision("fp16", GPU) == "fp16"
    assert choose_precision("bf16", CPU) == "bf16" and choose_precision("fp32", CPU) == "fp32"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
    ids=["AVX-512", "AMX", "Arm", "without", "unknown"],
)
def test_auto_is_bf16_where_the_cpu_has_instructions_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("auto", APPLES) == "fp32"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_an_older_torch_is_asked_for_avx512_alone(monkeypatch, has_bf16, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu_leaves_emulated_bf16(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: has_bf16 or including_emulation,
    )
    assert choose_precision("auto", GPU) == expected


@pytest.mark.parametrize(("name", "dtype"), DTYPES)
def test_autocast(name, dtype):
    layer, images = torch.nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 4, 4)
    with autocast(name, CPU):
        assert layer(images).dtype == dtype


@pytest.mark.parametrize(("name", "dtype"), DTYPES)
def test_a_step_computes_the_network_in_that_format_and_keeps_weights_in_float32(name, dtype):
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    optimizer = build_optimizer("sgd", model, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, Schedule("none", total_steps=9), scaler)
    outputs = []
    model.register_forward_hook(lambda module, inputs, output: outputs.extend(output))
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
    }
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    loss_fn = MultiBoxLoss(model.priors_cxcywh, image_size=(96, 96))
    options = StepOptions(CPU, precision=name)
    train_step(state, images, [target, target], loss_fn, options=options)
    assert [output.dtype for output in outputs] == [dtype, dtype]
    tensors = [x for parameter in model.parameters() for x in (parameter, parameter.grad)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_only_limits_of_the_machine_are_explained():
    with pytest.raises(RuntimeError) as error:
        torch.zeros(2**60)
    line = explain(error.value)
    assert "memory" in line and "--batch-size" in line and "\n" not in line
    with pytest.raises(RuntimeError) as error:
        torch.zeros(2) @ torch.zeros(3)
    assert explain(error.value) is None
