"""The tables of the report, as rows for its template."""

from dataclasses import dataclass

import numpy as np

from vision.evaluation.coco_arrays import AREA_RANGES
from vision.evaluation.coco_eval import PRECISIONS, RECALLS
from vision.evaluation.errors import KINDS
from vision.report.analysis import Analysis
from vision.report.dataset import SplitFacts

WANTED_PRECISION = 0.9
MAX_MATRIX = 12
MAX_ERROR_ROWS = 12


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it is sorted by."""

    text: str
    value: object


def twelve_rows(analysis: Analysis) -> list[dict]:
    """Return the twelve numbers with their intervals and settings."""
    rows = []
    for name, (iou, area, limit) in {**PRECISIONS, **RECALLS}.items():
        low, high = (round(side**0.5) for side in AREA_RANGES[area])
        sides = "all" if area == "all" else f"{low} to {high} squared"
        rows.append({
            "name": name,
            "value": analysis.given.metrics[name],
            "interval": analysis.intervals[name],
            "iou": f"{iou:.2f}" if iou else "0.50 to 0.95",
            "area": sides if high < 1e5 else "all" if area == "all" else f"over {low} squared",
            "limit": limit,
        })  # fmt: skip
    return rows


def class_rows(analysis: Analysis, train: SplitFacts | None) -> list[list[Cell]]:
    """Return a row of cells for each class, the highest AP first."""
    in_train = train.class_counts(len(analysis.names)) if train else None
    gains = np.nan_to_num(analysis.errors.gains_by_class)
    rows = []
    for k, (name, row) in enumerate(analysis.given.metrics["per_class"].items()):
        ends = analysis.intervals["per_class"][name]["AP"]
        best = analysis.class_curves[k].best_f1()
        strict = analysis.class_curves[k].at_precision(WANTED_PRECISION)
        kind = int(np.argmax(gains[:, k]))
        worst = f"{KINDS[kind]} {gains[kind, k]:.3f}" if gains[kind, k] > 0 else "nothing"
        choice = [best.f1, best.threshold, best.precision, best.recall] if best else [None] * 4
        rows.append([
            Cell(name, name),
            Cell(str(row["num_gt"]), row["num_gt"]),
            Cell("n/a", "") if in_train is None else Cell(str(in_train[k]), in_train[k]),
            _number(row["AP"]),
            Cell(f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "n/a", ends[0] if ends else ""),
            _number(row["AP50"]),
            _number(row["AR100"]),
            *map(_number, choice),
            _number(strict.threshold if strict else None),
            Cell(worst, gains[kind, k]),
        ])  # fmt: skip
    return sorted(rows, key=lambda cells: -_sortable(cells[3].value))


def confusion_table(analysis: Analysis) -> dict:
    """Return the matrix, of many classes those that are confused most and the rest together.

    Returns:
        `names` of the columns and `rows`: pairs of a name and its cells.
    """
    table, names = analysis.confusion, analysis.names
    wrong = table[:-1, :-1] - np.diag(np.diag(table[:-1, :-1]))
    chosen = np.arange(len(names))
    if len(names) > MAX_MATRIX:
        order = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")
        chosen = np.sort(order[:MAX_MATRIX])
        table = _fold(table, chosen)
    shown = [names[k] for k in chosen]
    if len(chosen) < len(names):
        shown.append(f"other {len(names) - len(chosen)}")
    largest = table.sum(axis=1, keepdims=True).clip(min=1)
    rows = []
    for i, name in enumerate([*shown, "background"]):
        cells = [
            {
                "count": None if i == j == len(shown) else int(count),
                "shade": 0.08 + 0.6 * float(count / largest[i, 0]),
                "color": "cell" if i == j else "wrong",
            }
            for j, count in enumerate(table[i])
        ]
        rows.append((name, cells))
    return {"names": [*shown, "not found"], "rows": rows}


def _fold(table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Add up the rows and columns of the classes that are not chosen, before the background's."""
    group = np.full(len(table), len(chosen))
    group[chosen] = np.arange(len(chosen))
    group[-1] = len(chosen) + 1
    folded = np.zeros((len(chosen) + 2, len(chosen) + 2), np.int64)
    np.add.at(folded, (group[:, None], group[None, :]), table)
    return folded


def most_confused(analysis: Analysis) -> tuple[str, str, int] | None:
    """(label, taken for, how often) of the commonest confusion of two classes."""
    wrong = analysis.confusion[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return None
    truth, seen = np.unravel_index(np.argmax(wrong), wrong.shape)
    return analysis.names[truth], analysis.names[seen], int(wrong[truth, seen])


def errors_by_size(analysis: Analysis) -> list[tuple[str, list[dict]]]:
    """Return, of each kind, what its errors of each size cost."""
    errors = analysis.errors
    return [
        (
            kind,
            [
                {"gain": float(gain), "count": int(count)}
                for gain, count in zip(
                    errors.gains_by_size[i], errors.counts_by_size[i], strict=True
                )
            ],
        )
        for i, kind in enumerate(KINDS)
    ]


def errors_by_class(analysis: Analysis) -> list[tuple[str, list[float]]]:
    """Return the classes that could win most, with what each kind costs them."""
    gains = np.nan_to_num(analysis.errors.gains_by_class)
    order = np.argsort(-gains.max(axis=0), kind="stable")[:MAX_ERROR_ROWS]
    return [(analysis.names[k], gains[:, k].tolist()) for k in order]


def _number(value: float | None) -> Cell:
    return Cell("n/a", "") if value is None else Cell(f"{value:.3f}", value)


def _sortable(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else -1.0
