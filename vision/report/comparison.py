"""What differs between runs: their settings, and their numbers on the same images."""

from dataclasses import asdict, dataclass

import numpy as np

from vision.evaluation.bootstrap import Difference, paired_differences
from vision.evaluation.coco_eval import PRECISIONS, RECALLS
from vision.report.analysis import Analysis
from vision.report.inputs import RunHistory
from vision.report.page import render_page
from vision.report.svg import COLORS, Canvas, Figure, epoch_axis, from_zero, label, legend
from vision.report.words import count_of, interval_text

MAX_CLASS_LINES = 20
CAVEAT = (
    "The intervals are over images. Trainings of one recipe differ by their seed, too: what is "
    "told is that these weights differ, not that the settings are the cause."
)


@dataclass(frozen=True)
class ComparedRun:
    """A run and its evaluation on the common images."""

    name: str
    analysis: Analysis
    history: RunHistory


@dataclass(frozen=True)
class Comparison:
    """A later run against the first: second less first, name -> Difference or None."""

    first: ComparedRun
    second: ComparedRun
    numbers: dict[str, Difference | None]
    per_class: dict[str, Difference | None]


def check_comparable(configs: list[dict], names: list[str]) -> None:
    """Refuse runs of other classes, or that were validated on other images or boxes.

    Args:
        configs: config.json of each run.
        names: of the runs.

    Raises:
        ValueError: names the two runs and what differs.
    """
    classes = [[item["name"] for item in config["classes"]] for config in configs]
    data = [config.get("data", {}).get("val") or {} for config in configs]
    for name, own, now in zip(names[1:], classes[1:], data[1:], strict=True):
        if sorted(own) != sorted(classes[0]):
            raise ValueError(
                f"{name} has other classes than {names[0]}: {', '.join(own)} instead of "
                f"{', '.join(classes[0])}"
            )
        before = data[0]
        what = ("images", "boxes") if own != classes[0] else ("sha256",)  # the order counts in it
        if any(now.get(key) != before.get(key) for key in what):
            raise ValueError(
                f"{name} was validated on other images or boxes than {names[0]} "
                f"({now.get('images')} images with {now.get('boxes')} boxes, "
                f"{before.get('images')} with {before.get('boxes')}); their AP cannot be compared. "
                "With --dataset ROOT all are evaluated on one data set"
            )


def compare_runs(runs: list[ComparedRun], *, num_resamples: int) -> list[Comparison]:
    """Compare each later run with the first, drawing the same images for both."""
    comparisons = []
    for run in runs[1:]:
        numbers = paired_differences(
            runs[0].analysis.matches, run.analysis.matches, run.analysis.names,
            num_resamples=num_resamples,
        )  # fmt: skip
        per_class = numbers.pop("per_class")
        comparisons.append(Comparison(runs[0], run, numbers, per_class))
    return comparisons


def different_settings(runs: list[ComparedRun]) -> dict[str, list]:
    """Return what is not the same in all runs: name -> a value for each run."""
    tables = []
    for run in runs:
        config = run.history.config
        table = {f"--{k.replace('_', '-')}": v for k, v in config.get("arguments", {}).items()}
        for section in ("versions", "machine"):
            table |= {f"{section}.{k}": v for k, v in config.get(section, {}).items()}
        for split, facts in config.get("data", {}).items():
            table |= {f"data.{split}.{key}": value for key, value in (facts or {}).items()}
        tables.append(table)
    names = list(dict.fromkeys(name for table in tables for name in table))
    values = {name: [table.get(name) for table in tables] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def verdict(comparison: Comparison) -> str:
    """Say in a sentence which run is better, or that this cannot be told."""
    first, second = comparison.first.name, comparison.second.name
    images = count_of(comparison.first.analysis.num_images, "image")
    difference = comparison.numbers["AP"]
    if difference is None:
        return f"{second} and {first}: no difference can be told from {images}."
    size, ends = difference.value, (difference.low, difference.high)
    if not difference.is_significant:
        return (
            f"{second} and {first}: no difference can be told from {images} (AP {size:+.3f}, "
            f"95 %: {ends[0]:+.3f} to {ends[1]:+.3f})."
        )
    better, worse = (second, first) if size > 0 else (first, second)
    ends = ends if size > 0 else (-ends[1], -ends[0])
    return f"{better} is better than {worse} by {abs(size):.3f} AP{interval_text(ends)}."


def class_verdicts(comparison: Comparison) -> list[str]:
    """Say which classes differ for certain, the largest difference first."""
    told = [(name, d) for name, d in comparison.per_class.items() if d and d.is_significant]
    told.sort(key=lambda row: -abs(row[1].value))
    lines = [
        f"{name}: {d.value:+.3f} AP (95 %: {d.low:+.3f} to {d.high:+.3f})"
        for name, d in told[:MAX_CLASS_LINES]
    ]
    if len(told) > MAX_CLASS_LINES:
        lines.append(f"and {count_of(len(told) - MAX_CLASS_LINES, 'class', 'classes')} more")
    rest = len(comparison.per_class) - len(told)
    if rest:
        lines.append(f"no difference can be told in {count_of(rest, 'class', 'classes')}")
    if len(comparison.per_class) >= 20:
        by_chance = 0.05 * len(comparison.per_class)
        lines.append(f"about {by_chance:.0f} classes would seem to differ by chance alone")
    return lines


def as_json(runs: list[ComparedRun], comparisons: list[Comparison]) -> dict:
    """Return everything as what json.dumps takes."""
    return {
        "images": runs[0].analysis.num_images,
        "runs": [
            {
                "name": run.name,
                "epochs": len(run.history.records),
                **{name: run.analysis.given.metrics[name] for name in (*PRECISIONS, *RECALLS)},
                "interval": {name: run.analysis.intervals[name] for name in ("AP", "AP50")},
            }
            for run in runs
        ],
        "settings": different_settings(runs),
        "comparisons": [
            {
                "first": c.first.name,
                "second": c.second.name,
                "verdict": verdict(c),
                **{name: _as_dict(d) for name, d in c.numbers.items()},
                "per_class": {name: _as_dict(d) for name, d in c.per_class.items()},
            }
            for c in comparisons
        ],
    }


def _as_dict(difference: Difference | None) -> dict | None:
    return difference and {**asdict(difference), "told": difference.is_significant}


def text_lines(runs: list[ComparedRun], comparisons: list[Comparison]) -> list[str]:
    """Lay the comparison out for the terminal."""
    width = max(len("run"), *(len(run.name) for run in runs))
    lines = [f"{'run':{width}}     AP  95 % interval      AP50  network"]
    for run in runs:
        metrics, ends = run.analysis.given.metrics, run.analysis.intervals["AP"]
        network = run.analysis.given.network
        between = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "n/a"
        lines.append(
            f"{run.name:{width}} {_number(metrics['AP'])}  {between:16}  "
            f"{_number(metrics['AP50'])}  {network.name} "
            f"{network.image_size[0]}x{network.image_size[1]}"
            + (f" tiles {network.tiles}" if network.tiles > 1 else "")
        )
    settings = different_settings(runs)
    lines += ["", "what differs:" if settings else "no setting differs"]
    for name, values in settings.items():
        lines.append(f"  {name}: " + " | ".join(_short(value) for value in values))
    for comparison in comparisons:
        lines += ["", verdict(comparison)]
        lines += [f"  {line}" for line in class_verdicts(comparison)]
    return [*lines, "", CAVEAT]


def build_page(runs: list[ComparedRun], comparisons: list[Comparison]) -> str:
    """Lay the comparison out as one HTML file."""
    canvas = Canvas()
    drawn = [
        _together(runs, name, title, canvas)
        for name, title in (
            ("AP", "AP on val"),
            ("loss", "Training loss"),
            ("val_loss", "Val loss"),
        )
    ]
    return render_page(
        "compare.html",
        title=" against ".join(run.name for run in runs[:2]) if len(runs) == 2 else "Runs compared",
        images=runs[0].analysis.num_images,
        verdicts=[verdict(comparison) for comparison in comparisons],
        runs=[run.name for run in runs],
        numbers=[
            (name, [(r.analysis.given.metrics[name], r.analysis.intervals[name]) for r in runs])
            for name in (*PRECISIONS, *RECALLS)
        ],
        settings={
            name: [_short(value) for value in values]
            for name, values in different_settings(runs).items()
        },
        figures=[figure for figure in drawn if figure],
        comparisons=comparisons,
        caveat=CAVEAT,
        footer=f"Evaluated on {runs[0].analysis.given.dataset}.",
    )


def _together(runs: list[ComparedRun], name: str, title: str, canvas: Canvas) -> Figure | None:
    """Draw one number of every run over the epochs; None where no run has it."""
    columns = [run.history.column(name) for run in runs]
    if all(np.isnan(column).all() for column in columns):
        return None
    with canvas.figure() as (drawing, axes):
        parts = []
        for i, (run, column) in enumerate(zip(runs, columns, strict=True)):
            seen = ~np.isnan(column)
            if not seen.any():
                continue
            color = COLORS[i % len(COLORS)]
            axes.plot(
                run.history.epochs[seen], column[seen], marker=".", color=color,
                label=label(run.name),
            )  # fmt: skip
            parts.append(f"{run.name} {column[seen][-1]:.3f}")
        epoch_axis(axes)
        from_zero(axes)
        legend(drawing)
        return canvas.finish(drawing, title, f"After the last epoch: {', '.join(parts)}.")


def _number(value: float | None) -> str:
    return f"{'n/a':>6}" if value is None else f"{value:6.3f}"


def _short(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
