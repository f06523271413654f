"""The drawings of a validation, each with a sentence that says what it shows."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from vision.evaluation.coco_arrays import IOU_THRESHOLDS, RECALL_THRESHOLDS
from vision.evaluation.errors import KINDS, SIZE_EDGES
from vision.report.analysis import Analysis
from vision.report.svg import BLUE, COLORS, GREEN, ORANGE, RED, SKY, Canvas, Figure, label, legend
from vision.report.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LINES = 6  # classes in one drawing of curves
MAX_BARS = 24
MAX_POINTS = 300  # of a curve: more are not seen
MIN_IN_BIN = 20  # detections, for a statement on their hit rate
SIZE_NAMES = [
    f"{low}-{high:.0f}" if np.isfinite(high) else f"over {low}"
    for low, high in pairwise(SIZE_EDGES)
]


def class_bars(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw each class's AP with its interval; of many classes, the best and the worst."""
    rows = analysis.worst_classes(len(analysis.names))[::-1]
    if not rows:
        return None
    shown, what = rows, f"all {len(rows)} classes that have boxes"
    if len(rows) > MAX_BARS:
        shown = rows[: MAX_BARS // 2] + rows[-MAX_BARS // 2 :]
        what = f"the best and the worst {MAX_BARS // 2} of {len(rows)} classes"
    ap = np.array([value for _, value in shown])
    ends = [analysis.intervals["per_class"][name]["AP"] or (v, v) for name, v in shown]
    low, high = np.array(ends).T
    with canvas.figure(height=0.9 + 0.16 * max(4, len(shown))) as (drawing, axes):
        axes.barh(range(len(shown)), ap, color=BLUE, height=0.7)
        spread = [(ap - low).clip(min=0), (high - ap).clip(min=0)]
        axes.errorbar(ap, range(len(shown)), xerr=spread, fmt="none", ecolor=ORANGE, capsize=2)
        axes.set_yticks(range(len(shown)), [label(name) for name, _ in shown])
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="AP", xlim=(0, max(0.05, min(1, high.max() * 1.05))))
        best, worst = rows[0], rows[-1]
        caption = (
            f"AP of {what}, with 95 % intervals: from {best[1]:.3f} ({best[0]}) to {worst[1]:.3f} "
            f"({worst[0]})."
        )
        return canvas.finish(drawing, "AP by class", caption)


def precision_recall_by_iou(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw the mean curve over the classes at several IoU thresholds."""
    has_boxes = (analysis.precision > -1).all(axis=(0, 1))
    if not has_boxes.any():
        return None
    mean = analysis.precision[:, :, has_boxes].mean(axis=2)  # [T, R]
    with canvas.figure() as (drawing, axes):
        for t in (0, 2, 4, 6, 8):
            text = f"IoU {IOU_THRESHOLDS[t]:.1f}: {mean[t].mean():.2f}"
            axes.plot(RECALL_THRESHOLDS, mean[t], label=text)
        _unit_square(axes, "recall", "precision")
        legend(drawing)
        caption = (
            f"Mean over the classes; the area under a curve is its AP. From IoU 0.5 to 0.8 it "
            f"falls from {mean[0].mean():.3f} to {mean[6].mean():.3f}: "
            + ("boxes are loose." if mean[6].mean() < 0.5 * mean[0].mean() else "boxes are tight.")
        )
        return canvas.finish(drawing, "Precision and recall by IoU", caption)


def precision_recall_by_class(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw the curves of the classes with the most boxes, at IoU 0.5."""
    chosen = _largest_classes(analysis)
    if not chosen:
        return None
    with canvas.figure() as (drawing, axes):
        aps = {}
        for k in chosen:
            values = analysis.precision[0, :, k]
            aps[analysis.names[k]] = values.mean()
            axes.plot(RECALL_THRESHOLDS, values, label=f"{label(analysis.names[k], 14)}")
        _unit_square(axes, "recall", "precision")
        legend(drawing)
        best, worst = max(aps, key=aps.get), min(aps, key=aps.get)
        caption = (
            f"At IoU 0.5, {_which(analysis, chosen)}: AP50 from {aps[worst]:.3f} ({worst}) to "
            f"{aps[best]:.3f} ({best})."
        )
        return canvas.finish(drawing, "Precision and recall by class", caption)


def f1_over_threshold(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw F1 over the score threshold, and mark the best of all classes together."""
    best = analysis.curve.best_f1()
    if best is None:
        return None
    with canvas.figure() as (drawing, axes):
        for k in _largest_classes(analysis)[: MAX_LINES - 1]:
            curve = analysis.class_curves[k]
            name = label(analysis.names[k], 14)
            axes.plot(*_thin(curve.scores, curve.f1), label=name, linewidth=1)
        scores, f1 = _thin(analysis.curve.scores, analysis.curve.f1)
        axes.plot(scores, f1, color=RED, linewidth=2.2, label="all classes")
        axes.axvline(best.threshold, color=RED, linestyle=":", linewidth=1)
        _unit_square(axes, "score threshold", "F1 at IoU 0.5")
        legend(drawing)
        caption = (
            f"The best F1 of all classes together is {best.f1:.3f}, at a score above "
            f"{best.threshold:.2f}: precision {best.precision:.3f}, recall {best.recall:.3f}. Each "
            "class's own best threshold is in the table of classes."
        )
        return canvas.finish(drawing, "F1 over the score threshold", caption)


def calibration(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw the hit rate over the score."""
    result = analysis.calibration
    if result.error is None:
        return None
    middles, seen = (result.edges[1:] + result.edges[:-1]) / 2, result.counts > 0
    with canvas.figure() as (drawing, axes):
        axes.bar(middles[seen], result.hit_rates[seen], width=0.09, color=SKY, label="right")
        axes.plot([0, 1], [0, 1], color=ORANGE, linewidth=1, label="score = hit rate")
        for x, rate, count in zip(
            middles[seen], result.hit_rates[seen], result.counts[seen], strict=True
        ):
            text = f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"
            axes.text(x, min(rate + 0.02, 0.94), text, ha="center", fontsize=6.5)
        _unit_square(axes, "score", "share that is right")
        legend(drawing)
        gaps = np.where(result.counts >= MIN_IN_BIN, result.mean_scores - result.hit_rates, 0)
        worst = int(np.argmax(np.abs(gaps)))
        caption = (
            f"Mean distance of score and hit rate over all detections {result.error:.3f}. Numbers "
            "are detections."
        )
        if gaps[worst]:
            caption = (
                f"Furthest off, the detections that score {result.edges[worst]:.1f} to "
                f"{result.edges[worst + 1]:.1f} are right {percent(result.hit_rates[worst])} of "
                f"the time, their mean score is {result.mean_scores[worst]:.2f}: too "
                f"{'high' if gaps[worst] > 0 else 'low'}. {caption}"
            )
        return canvas.finish(drawing, "Calibration", caption)


def error_bars(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw what each kind of error costs."""
    errors = analysis.errors
    if errors.ap50 is None:
        return None
    with canvas.figure(height=2.2) as (drawing, axes):
        axes.barh(range(len(KINDS)), errors.gains, color=COLORS[: len(KINDS)], height=0.7)
        for i, (gain, count) in enumerate(zip(errors.gains, errors.counts, strict=True)):
            axes.text(gain, i, f" {gain:.3f} ({count})", va="center", fontsize=7)
        axes.set_yticks(range(len(KINDS)), KINDS)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="AP50 to win", xlim=(0, max(0.01, errors.gains.max() * 1.3)))
        losses = analysis.largest_losses()
        caption = "No error costs AP50."
        if losses:
            kind, gain, count = losses[0]
            caption = (
                f"AP50 is {errors.ap50:.3f}. The costliest kind is {kind}: putting its {count} "
                f"errors right would win {gain:.3f}. Gains do not add up: each is for one kind."
            )
        return canvas.finish(drawing, "Where AP50 is lost", caption)


def coverage_by_size(analysis: Analysis, canvas: Canvas) -> Figure | None:
    """Draw which boxes of each size some prior fits, and which are missed."""
    if not analysis.num_boxes or not analysis.has_priors:
        return None
    bins, is_box, covered = analysis.size_bins(), analysis.is_box, analysis.is_covered()
    totals, fitted, missed = (
        np.bincount(bins[is_box & chosen], minlength=len(SIZE_NAMES))
        for chosen in (True, covered, analysis.errors.is_missed)
    )
    places = np.arange(len(SIZE_NAMES))
    with canvas.figure(height=2.4) as (drawing, axes):
        for shift, values, color, name in (
            (-0.27, totals, BLUE, "boxes"),
            (0, fitted, GREEN, "with a prior of IoU 0.5"),
            (0.27, missed, ORANGE, "missed"),
        ):
            bars = axes.bar(places + shift, values, width=0.27, color=color, label=name)
            axes.bar_label(bars, fontsize=6)
        axes.set_xticks(places, SIZE_NAMES)
        axes.grid(axis="x", visible=False)
        axes.set(xlabel="square root of the area, pixels of the input", ylabel="boxes")
        axes.margins(y=0.12)
        legend(drawing)
        all_missed = int(missed.sum())
        hopeless = int((analysis.errors.is_missed & ~covered).sum())
        caption = (
            f"A prior with IoU 0.5 or more exists for {percent(fitted.sum() / totals.sum())} of "
            f"{totals.sum()} boxes. "
            + (
                f"Of {all_missed} missed boxes, {percent(hopeless / all_missed)} fit none."
                if all_missed
                else "No box is missed."
            )
        )
        return canvas.finish(drawing, "Box sizes and the priors", caption)


def _largest_classes(analysis: Analysis) -> list[int]:
    """Places of the classes with the most boxes, at most MAX_LINES."""
    counts = np.array([row["num_gt"] for row in analysis.given.metrics["per_class"].values()])
    order = np.argsort(-counts, kind="stable")[:MAX_LINES]
    return [int(k) for k in order if counts[k]]


def _which(analysis: Analysis, chosen: list[int]) -> str:
    with_boxes = sum(row["num_gt"] > 0 for row in analysis.given.metrics["per_class"].values())
    if len(chosen) == with_boxes:
        return "all classes that have boxes"
    return f"the {len(chosen)} classes with the most boxes of {with_boxes}"


def _unit_square(axes: "Axes", x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.01))


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most MAX_POINTS of a curve, evenly spread."""
    rows = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int)) if len(x) else slice(0)
    return x[rows], y[rows]
