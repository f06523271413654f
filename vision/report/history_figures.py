"""The drawings of a training: what changed from epoch to epoch, and where a run was resumed."""

from typing import TYPE_CHECKING

import numpy as np

from vision.report.inputs import RunHistory
from vision.report.svg import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Canvas,
    Figure,
    epoch_axis,
    from_zero,
    legend,
)
from vision.report.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 2.2  # inches


def history_figures(history: RunHistory, canvas: Canvas) -> list[Figure]:
    """Draw losses, AP, learning rate, speed, time and memory over the epochs."""
    if not history.records:
        return []
    figures = [_losses(history, canvas)]
    if len(_seen(history, "AP")):
        figures.append(_precision(history, canvas))
    for name, title, describe in _LINES:
        if len(values := _seen(history, name)):
            figures.append(_line(history, canvas, name, title, describe(values)))
    return [*figures, _time_shares(history, canvas)]


def _seen(history: RunHistory, name: str) -> np.ndarray:
    """The numbers that epochs have, float64: [E] or fewer."""
    values = history.column(name)
    return values[~np.isnan(values)]


_LINES = (
    ("lr", "Learning rate",
     lambda x: f"From {x.max():.2g} at its highest to {x[-1]:.2g} in the last epoch."),
    ("images_per_second", "Images a second",
     lambda x: f"Between {x.min():.1f} and {x.max():.1f} images a second in training."),
    ("peak_memory_mb", "Peak memory, MB",
     lambda x: f"At most {x.max():.0f} MB, {x.max() - x[0]:.0f} MB more than after the first "
               "epoch."),
)  # fmt: skip


def _losses(history: RunHistory, canvas: Canvas) -> Figure:
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        for name, title, color in (
            ("loss", "loss", BLUE),
            ("loss_classification", "classification", GREEN),
            ("loss_regression", "regression", ORANGE),
        ):
            axes.plot(history.epochs, history.column(name), color=color, label=title, marker=".")
            validated = ~np.isnan(history.column(f"val_{name}"))
            if validated.any():
                axes.plot(
                    history.epochs[validated], history.column(f"val_{name}")[validated], "--",
                    color=color, marker=".",
                )  # fmt: skip
        _finish_axes(history, axes)
        from_zero(axes)
        legend(drawing, title="train; val dashed")
        train, val = _seen(history, "loss"), _seen(history, "val_loss")
        parts = [f"The training loss went {_from_to(train)}"] if len(train) else []
        parts += [f"val loss {_from_to(val)}"] if len(val) else []
        caption = ", ".join(parts) + "." if parts else "No epoch has a loss."
        return canvas.finish(drawing, "Losses", caption)


def _from_to(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"to {values[0]:.3f}"
    return f"from {values[0]:.3f} to {values[-1]:.3f}"


def _precision(history: RunHistory, canvas: Canvas) -> Figure:
    ap = history.column("AP")
    seen = ~np.isnan(ap)
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        for name, color in (("AP", BLUE), ("AP50", ORANGE), ("AP75", GREEN)):
            axes.plot(
                history.epochs[seen], history.column(name)[seen], color=color, label=name,
                marker=".",
            )  # fmt: skip
        _finish_axes(history, axes)
        from_zero(axes)
        legend(drawing)
        best = int(np.nanargmax(ap))
        caption = f"The best AP is {ap[best]:.3f}, in epoch {history.epochs[best]}."
        return canvas.finish(drawing, "AP on val", caption)


def _time_shares(history: RunHistory, canvas: Canvas) -> Figure:
    names = ("step_share", "data_wait", "eval_share")
    shares = np.array([history.column(name) for name in names])
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        bottom = np.zeros(len(history.records))
        for values, title, color in zip(
            shares, ("steps", "waiting for data", "validation"), (BLUE, RED, GREEN), strict=True
        ):
            axes.bar(history.epochs, values, bottom=bottom, color=color, label=title, width=0.85)
            bottom += np.nan_to_num(values)
        _finish_axes(history, axes)
        axes.set_ylim(0, 1)
        legend(drawing)
        mean = np.nan_to_num(shares).mean(axis=1)
        caption = (
            f"On average {percent(mean[0])} of an epoch were steps, {percent(mean[1])} waiting for "
            f"data, {percent(mean[2])} validation."
        )
        return canvas.finish(drawing, "What the time went to", caption)


def _line(history: RunHistory, canvas: Canvas, name: str, title: str, caption: str) -> Figure:
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        axes.plot(history.epochs, history.column(name), marker=".")
        _finish_axes(history, axes)
        from_zero(axes)
        return canvas.finish(drawing, title, caption)


def _finish_axes(history: RunHistory, axes: "Axes") -> None:
    """Label the epochs, and mark where the run was resumed."""
    epoch_axis(axes)
    for number, entry in enumerate(history.resumes, start=1):
        place = (entry.get("epoch") or 0) + 0.5
        axes.axvline(place, color=RED, linestyle=":", linewidth=1)
        axes.text(
            place, 1, f" {number}", transform=axes.get_xaxis_transform(), fontsize=7, va="top"
        )
