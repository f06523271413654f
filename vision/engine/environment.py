"""Machine settings and library versions of a run, recorded in config.json."""

import platform

import numpy as np
import torch
import torchvision

import vision
from vision.engine import distributed


def machine(device: torch.device, precision: str) -> dict:
    """Return device, precision, and numbers of threads and processes."""
    return {
        "device": str(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the toolkit, of Python and of the libraries."""
    return {
        "toolkit": vision.__version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
