"""Everything that training changes, to be saved and restored as one."""

from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from vision.engine.checkpoint import FORMAT
from vision.engine.ema import ModelEma
from vision.engine.optim import Schedule
from vision.ssd.ssd import SSD


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

    @property
    def evaluated_model(self) -> SSD:
        """The averaged model where there is one."""
        return self.ema.model if self.ema else self.model

    def finish_epoch(self, average_precision: float | None) -> None:
        """Count the epoch and remember it if its AP is the best."""
        self.epoch += 1
        self.progress = _no_progress()
        best = self.best["AP"]
        if average_precision is not None and (best is None or average_precision > best):
            self.best = {"AP": average_precision, "epoch": self.epoch}

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
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore everything but the schedule, which follows from the arguments."""
        self.model.load_state_dict(state["model"])
        # Rates and decay of the groups come from the arguments, which may have been overridden.
        groups = [
            {**saved, **{k: v for k, v in own.items() if k != "params"}}
            for saved, own in zip(
                state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True
            )
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"] or state["model"])
        torch.set_rng_state(state["rng"]["torch"])
        if state["rng"]["cuda"] and len(state["rng"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best, self.progress = dict(state["best"]), dict(state["progress"])
