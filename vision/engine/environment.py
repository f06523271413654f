"""Machine settings and library versions of a run, recorded in config.json."""

import platform

import numpy as np
import torch
import torchvision

import vision
from vision.engine import distributed


def environment(device: torch.device, precision: str) -> dict[str, dict]:
    """Return `versions`, of the toolkit and its libraries, and `machine`, how it is used."""
    return {
        "versions": {
            "toolkit": vision.__version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "device": str(device),
            "precision": precision,
            "threads": torch.get_num_threads(),
            "processes": distributed.world_size(),
        },
    }
