"""Everything that training changes, to be saved and restored as one."""

import logging
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from vision.engine import distributed
from vision.engine.ema import ModelEma
from vision.engine.optim import Schedule
from vision.runs.checkpoint import FORMAT
from vision.ssd.ssd import SSD

logger = logging.getLogger(__name__)


def _no_progress() -> dict:
    return {
        "batches": 0,
        "loss": 0.0,
        "loss_classification": 0.0,
        "loss_regression": 0.0,
        "nonfinite": 0,
        "nonfinite_in_a_row": 0,
    }


@dataclass
class TrainingState:
    """The state of a run between two steps.

    Attributes:
        epoch: whole epochs done, validation included.
        step: optimizer steps done in the whole run.
        best: the best validation AP so far and its epoch, or None and None.
        progress: of the epoch under way: batches done, sums of the loss terms over them, and
            steps that were not taken because something was not finite.
        network: the model as training calls it, which averages gradients over the processes.
    """

    model: SSD
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: ModelEma | None = None
    epoch: int = 0
    step: int = 0
    best: dict = field(default_factory=lambda: {"AP": None, "epoch": None})
    progress: dict = field(default_factory=_no_progress)
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network = distributed.parallel(self.model)

    @property
    def evaluated_model(self) -> SSD:
        """The averaged model where there is one."""
        return self.ema.model if self.ema else self.model

    def finish_epoch(self, average_precision: float | None) -> None:
        """Count the epoch and remember it if its AP is the best."""
        self.epoch += 1
        self.restart_epoch()
        best = self.best["AP"]
        if average_precision is not None and (best is None or average_precision > best):
            self.best = {"AP": average_precision, "epoch": self.epoch}

    def restart_epoch(self) -> None:
        """Go to the start of the epoch."""
        in_a_row = self.progress["nonfinite_in_a_row"]  # epochs may be shorter than the limit
        self.progress = _no_progress() | {"nonfinite_in_a_row": in_a_row}

    def state_dict(self, *, config: dict, classes: list[dict]) -> dict:
        """Return the content of a checkpoint; tensors are the live ones, not copies.

        The order of images and their augmentation need no generator's state: they are functions of
        the seed, the epoch and the index.
        """
        rng = {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        return {
            "format": FORMAT,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": dict(self.ema.model.state_dict()) if self.ema else None,
            "rng": rng,
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "progress": self.progress,
            "config": config,
            "classes": classes,
            **self.model.network.as_numbers(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore everything but the schedule, which follows from the arguments.

        Raises:
            ValueError: the checkpoint is of another network, or its parts are not what they
                should be.
        """
        try:
            self._load(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the checkpoint does not fit this run: {reason}") from error

    def _load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self._load_optimizer(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"] or state["model"])
        torch.set_rng_state(state["rng"]["torch"])
        if state["rng"]["cuda"] and len(state["rng"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best = {key: state["best"][key] for key in self.best}
        self.progress = {key: state["progress"][key] + 0 for key in self.progress}

    def _load_optimizer(self, saved: dict) -> None:
        own_groups = self.optimizer.state_dict()["param_groups"]
        if _describe(saved["param_groups"]) != _describe(own_groups):
            logger.warning(
                "another optimizer, or other layers are trained than in the checkpoint: "
                "momentum starts anew"
            )
            return
        # Rates and decay of the groups come from the arguments, which may have been overridden.
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own_groups})


def _describe(groups: list[dict]) -> list[tuple]:
    """Return what must be the same for an optimizer's state to mean the same."""
    return [(g["name"], len(g["params"]), "betas" in g, "momentum" in g) for g in groups]
