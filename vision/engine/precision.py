"""Choosing the device and the number format (fp32, bf16, fp16) of training and inference."""

import os

import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto`: CUDA if there is a GPU, else Apple's MPS, else CPU.

    With `auto` and `cuda`, a process that torchrun started takes the GPU of its number on this
    machine.

    Raises:
        ValueError: torch cannot use that device.
    """
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if name != "auto":
        try:
            device = torch.device(name)
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).split(". ")[0].splitlines()[0]
            raise ValueError(
                f"--device {name}: torch cannot use it here ({reason}); use --device cpu"
            ) from None
        return device
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision; `auto`: bf16 if the hardware has instructions for it, else fp32.

    Raises:
        ValueError: fp16 on another device than CUDA.
    """
    if name == "fp16" and device.type != "cuda":
        raise ValueError("--precision fp16 needs a CUDA device; use bf16 or fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # A CPU without instructions for it is slower with bf16 than with fp32.
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return "bf16" if any(map(has.get, ("avx512_bf16", "amx_bf16", "bf16"))) else "fp32"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context for the network's forward pass."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
