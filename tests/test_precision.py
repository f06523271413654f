"""Devices and number formats by name."""

import platform
from pathlib import Path

import pytest
import torch

from vision.engine.machine_limits import explain
from vision.engine.precision import autocast, choose_device, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "", "cpu:x", "xpu:77"])
def test_devices_that_cannot_be_used_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="--device") as error:
        choose_device(name)
    assert "\n" not in str(error.value)


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cuda", "mps", "cpu")


def test_fp16_needs_a_gpu():
    with pytest.raises(ValueError, match="--precision fp16 needs"):
        choose_precision("fp16", CPU)
    assert choose_precision("bf16", CPU) == "bf16" and choose_precision("fp32", CPU) == "fp32"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86's flags from /proc")
def test_auto_is_bf16_where_the_cpu_has_instructions_for_it():
    flags = Path("/proc/cpuinfo").read_text().split()
    has_bf16 = bool({"avx512_bf16", "amx_bf16"} & set(flags))
    assert choose_precision("auto", CPU) == ("bf16" if has_bf16 else "fp32")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast(name, dtype):
    layer, images = torch.nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 4, 4)
    with autocast(name, CPU):
        assert layer(images).dtype == dtype


def test_only_limits_of_the_machine_are_explained():
    with pytest.raises(RuntimeError) as error:
        torch.zeros(2**60)
    line = explain(error.value)
    assert "memory" in line and "--batch-size" in line and "\n" not in line
    with pytest.raises(RuntimeError) as error:
        torch.zeros(2) @ torch.zeros(3)
    assert explain(error.value) is None
