"""The state of training: model, optimizer, EMA, position in the run; saved and restored."""

import logging
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from vision.engine import distributed
from vision.engine.ema import ModelEma
from vision.engine.optim import Schedule
from vision.runs.checkpoint import FORMAT
from vision.ssd.ssd import SSD

logger = logging.getLogger(__name__)


NO_PROGRESS = {
    "batches": 0,
    "loss": 0.0,
    "loss_classification": 0.0,
    "loss_regression": 0.0,
    "nonfinite": 0,
    "nonfinite_in_a_row": 0,
}


def has_stalled(best: dict, epoch: int, *, patience: int, eval_every: int) -> bool:
    """Tell whether the last `patience` validations have not raised the best AP.

    It follows from what a checkpoint holds, so a resumed run stops where one that was never
    interrupted stops.

    Args:
        best: the best AP and its epoch, as of `TrainingState`.
        epoch: whole epochs done.
        patience: number of validations.
        eval_every: epochs between two of them.
    """
    if best["epoch"] is None:
        return False
    return epoch // eval_every - best["epoch"] // eval_every >= patience


@dataclass
class TrainingState:
    """The state of a run between two steps.

    Attributes:
        epoch: whole epochs done, validation included.
        step: optimizer steps done in the whole run, skipped ones included.
        best: the best validation AP so far and its epoch, or None and None.
        progress: in the current epoch: batches done, sums of the loss terms over them, and the
            number of steps skipped because the loss or gradient was not finite.
        thresholds: of each class, which scores to ask for of the model as it was after the last
            epoch, see `Validator.thresholds`; None: not measured then.
        network: what training calls: the model; with several processes inside the wrapper that
            averages their gradients, and gives all the main process's BatchNorm statistics.
    """

    model: SSD
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: ModelEma | None = None
    epoch: int = 0
    step: int = 0
    best: dict = field(default_factory=lambda: {"AP": None, "epoch": None})
    progress: dict = field(default_factory=NO_PROGRESS.copy)
    thresholds: list[dict[str, float]] | None = None
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        has_gradients = any(p.requires_grad for p in self.model.parameters())
        if distributed.world_size() > 1 and has_gradients:
            self.network = DistributedDataParallel(self.model)
        else:
            self.network = self.model

    @property
    def evaluated_model(self) -> SSD:
        """The model with averaged weights (EMA) if there is one, else the model."""
        return self.ema.model if self.ema else self.model

    def finish_epoch(
        self,
        average_precision: float | None,
        *,
        thresholds: list[dict[str, float]] | None = None,
    ) -> None:
        """Count the epoch, and record its AP if it is the best so far, and its thresholds."""
        self.epoch += 1
        self.thresholds = thresholds
        self.restart_epoch()
        best = self.best["AP"]
        if average_precision is not None and (best is None or average_precision > best):
            self.best = {"AP": average_precision, "epoch": self.epoch}

    def restart_epoch(self) -> None:
        """Set `progress` to the start of an epoch."""
        in_a_row = self.progress["nonfinite_in_a_row"]  # goes on: an epoch may be shorter than 10
        self.progress = NO_PROGRESS | {"nonfinite_in_a_row": in_a_row}

    def state_dict(self, *, config: dict, classes: list[dict]) -> dict:
        """Return the content of a checkpoint; its tensors are the model's own, not copies.

        The order and the augmentation of images are not in it: they follow from the seed, the epoch
        and the index.
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
            # Of other weights, inside an epoch.
            "thresholds": None if self.progress["batches"] else self.thresholds,
            **self.model.network.as_numbers(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore everything but the learning-rate schedule, which follows from the arguments.

        Raises:
            ValueError: the checkpoint is of another network, or a part of it has a wrong form.
        """
        try:
            self._load(state)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
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
        self.thresholds = state.get("thresholds")

    def _load_optimizer(self, saved: dict) -> None:
        own_groups = self.optimizer.state_dict()["param_groups"]
        if _describe(saved["param_groups"]) != _describe(own_groups):
            logger.warning(
                "another optimizer, or other layers are trained than in the checkpoint: "
                "momentum starts anew"
            )
            return
        _check_moments(saved["state"], self.optimizer)
        # Learning rates and weight decay come from the arguments, which may have been overridden.
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own_groups})


def _check_moments(saved: dict, optimizer: Optimizer) -> None:
    """Refuse a state of other shapes: fused optimizers would write beyond the end of a tensor.

    Raises:
        ValueError: names the key.
    """
    names = ("exp_avg", "exp_avg_sq", "step") if "betas" in optimizer.defaults else ()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in saved.items():
        for name in {*names, *entry}:
            shape = () if name == "step" else parameters[number].shape
            moment = entry.get(name)
            is_absent = moment is None and name not in names  # SGD without momentum
            if not is_absent and getattr(moment, "shape", None) != shape:
                raise ValueError(f"the optimizer's {name!r} of parameter {number} was edited")


def _describe(groups: list[dict]) -> list[tuple]:
    """Return what two optimizers must have in common to use the same state."""
    return [(g["name"], len(g["params"]), "betas" in g, "momentum" in g) for g in groups]
