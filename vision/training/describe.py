"""What config.json and each checkpoint say of a run."""

import platform
from dataclasses import asdict

import numpy as np
import torch
import torchvision

import vision
from vision.engine import distributed
from vision.engine.step import StepOptions
from vision.ssd.network import Network
from vision.training.data import TrainingData
from vision.training.resume import RunStart
from vision.training.saved_args import saved_arguments


def describe_run(
    start: RunStart, data: TrainingData, network: Network, options: StepOptions
) -> dict:
    """Return arguments, classes, network, versions, machine, data and history of a run."""
    return {
        "arguments": saved_arguments(start.args),
        "classes": start.config.get("classes") or [asdict(item) for item in data.train.categories],
        **network.as_numbers(),
        "versions": {
            "toolkit": vision.__version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "device": str(options.device),
            "precision": options.precision,
            "threads": torch.get_num_threads(),
            "processes": distributed.world_size(),
        },
        "data": {"train": data.train.fingerprint(), "val": data.val.fingerprint()},
        "history": start.config.get("history") or [],
        "job": start.job,
    }
