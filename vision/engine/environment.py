"""What the bits of a run depend on besides its arguments and its data."""

import platform

import numpy as np
import torch
import torchvision

import vision
from vision.engine import distributed


def machine(device: torch.device, precision: str) -> dict:
    """Return where a run computes, and how."""
    return {
        "device": str(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }


def versions() -> dict[str, str]:
    """Return what a run was made with."""
    return {
        "toolkit": vision.__version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
