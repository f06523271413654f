"""What exported files are worth beside the network in torch, and where they lose it."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from vision.datasets.layouts.layout import Source
from vision.deploy.detect import RESIZE, FileDetector, sample_points
from vision.deploy.detectnet import DetectNet
from vision.deploy.export import Export
from vision.deploy.torch_detector import TorchDetector
from vision.evaluation.coco_arrays import match_boxes
from vision.evaluation.exported import Measurement, measure
from vision.evaluation.thresholds import ClassThresholds, class_thresholds, preferred

COLUMNS = (
    "target", "file", "megabytes", "AP", "AP_at_threshold", "AP50", "precision", "recall", "ms"
)  # fmt: skip
_NO_CLUSTERING = 2.0  # an overlap that no two boxes have


def compare(
    detector: TorchDetector,
    exports: Sequence[Export],
    source: Source,
    *,
    without_voting: Callable[[], TorchDetector],
    score_threshold: float,
    where: dict,
) -> tuple[list[dict], Measurement]:
    """Measure the network and each file on its own runtime.

    The files then say what they were measured at.

    Args:
        detector: the network, with the lowest threshold.
        exports: files that are not written yet.
        source: the split to measure on.
        without_voting: builds the same without box voting, to tell what files lose that have none.
        score_threshold: of precision, recall and `AP_at_threshold`, and detectNet's.
        where: names of data set and split, for the files.

    Returns:
        The rows of deployment.json, PyTorch's first. A file's row has `steps`: the AP after each
        of the differences between torch and the file, the last of which is the file itself.
        And what was measured of the network.
    """
    measured = partial(
        measure, source=source, class_names=detector.names[1:], score_threshold=score_threshold
    )
    of_network = measured(detector.predict)
    rows = [_row("pytorch", of_network)]
    lost: dict[str, Measurement] = {}  # by files that do not vote where the network does
    if detector.votes and not all(export.about["box_voting"] for export in exports):
        lost["no box voting"] = measured(without_voting().predict)
    for export in exports:
        steps = {} if export.about["box_voting"] else dict(lost)
        row = _measure_file(export, measured, steps, score_threshold=score_threshold)
        rows.append(row)
        export.about["measured"] = {
            **where,
            "images": len(source.index),
            **{name: row[name] for name in ("AP", "AP50", "precision", "recall")},
        }
    return rows, of_network


def _measure_file(
    export: Export,
    measured: Callable[..., Measurement],
    steps: dict[str, Measurement],
    *,
    score_threshold: float,
) -> dict:
    """Write the file to a temporary folder and measure it; `steps` come before its own."""
    target = export.about["target"]
    with tempfile.TemporaryDirectory() as folder:
        path = export.write(Path(folder))
        exported = FileDetector(path, threshold=0)
        if target == "jetson":
            for step, options in _detectnet_steps(exported).items():
                shown = DetectNet(exported, score_threshold=score_threshold, **options)
                steps[step] = measured(shown.predict)
        else:
            is_int8 = target.endswith("-int8")
            step = "int8" if is_int8 else "one list of candidates for all classes"
            steps[step] = measured(exported.predict)
    num_bytes = sum(map(len, export.encode(export.about).values()))
    *_, last = steps.values()
    row = _row(target, last, file=path.name, megabytes=round(num_bytes / 1e6, 1))
    row["steps"] = [
        {"step": step, "AP": _row(target, taken)[_compared(row)]} for step, taken in steps.items()
    ]
    return row


def _detectnet_steps(detector: FileDetector) -> dict[str, dict]:
    """Say how to go from our post-processing to detectNet's, one difference more in each step."""
    return {
        "one class of a box, and the graph's suppression": {
            "clustering": _NO_CLUSTERING, "resize": RESIZE[detector.about["resize"]]
        },
        "resize by points": {"clustering": _NO_CLUSTERING, "resize": sample_points},
        "clustering and clipping": {"resize": sample_points},
    }  # fmt: skip


def set_thresholds(
    exports: Sequence[Export],
    network: Measurement,
    *,
    precision: float | None = None,
    recommend: bool = True,
) -> list[str]:
    """Tell the files what score to ask for of each class.

    Each item of their `classes` gets `thresholds`: `best_f1`, and `at_precision` where that is
    wanted.

    Args:
        exports: files that are not written yet.
        network: what it found, with low scores.
        precision: wanted of each class; None: that of the best F1.
        recommend: the items get `threshold` too, which a detector then takes: that of the
            precision, or of the best F1 where there is none of that precision.

    Returns:
        A line for each class.
    """
    matches = match_boxes(network.ground_truth, network.detections)
    names = [item["name"] for item in exports[0].about["classes"]]
    chosen = class_thresholds(matches, len(names), precision=precision)
    for export in exports:
        for item, choices in zip(export.about["classes"], chosen, strict=True):
            item.pop("threshold", None)
            item["thresholds"] = choices.scores()
            if recommend and item["thresholds"]:
                item["threshold"] = preferred(item["thresholds"])
    return [
        line
        for name, choices in zip(names, chosen, strict=True)
        for line in _threshold_lines(name, choices, precision)
    ]


def _threshold_lines(name: str, choices: ClassThresholds, precision: float | None) -> list[str]:
    asked = [("best F1", choices.best_f1)]
    if precision is not None:
        asked.append((f"precision {precision:g}", choices.at_precision))
    return [
        f"{name}, {what}: "
        + (
            f"score {choice.threshold:.3f}, precision {choice.precision:.3f}, "
            f"recall {choice.recall:.3f}"
            if choice
            else "no score gives it"
        )
        for what, choice in asked
    ]


def table(rows: Sequence[dict]) -> list[str]:
    """Lay the rows out, a line each."""
    cells = [[name.replace("_", " ") for name in COLUMNS]]
    cells += [[_cell(name, row[name]) for name in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def drops(rows: Sequence[dict], max_drop: float) -> list[str]:
    """Name the files whose AP is lower than PyTorch's by more than `max_drop`, a line each.

    A file of which only boxes from a threshold on can be seen, as on a Jetson, is compared with
    PyTorch's boxes from there on.
    """
    lines = []
    for row in rows[1:]:
        aps = [rows[0][_compared(row)] or 0.0, *(step["AP"] or 0.0 for step in row["steps"])]
        lost = [before - after for before, after in pairwise(aps)]
        if aps[0] - aps[-1] > max_drop:
            worst = lost.index(max(lost))
            lines.append(
                f"{row['target']}: AP {aps[-1]:.4f} where PyTorch has {aps[0]:.4f}: a loss of more "
                f"than {max_drop:g}, and {lost[worst]:.4f} of it by: {row['steps'][worst]['step']}"
            )
    return lines


def _compared(row: dict) -> str:
    return "AP_at_threshold" if row["target"] == "jetson" else "AP"


def _row(
    target: str, measured: Measurement, *, file: str | None = None, megabytes: float | None = None
) -> dict:
    numbers = {name: measured.metrics[name] for name in ("AP", "AP50", "precision", "recall")}
    return {
        "target": target,
        "file": file,
        "megabytes": megabytes,
        **numbers,
        "AP_at_threshold": measured.ap_at_threshold,
        "score_threshold": measured.metrics["score_threshold"],
        "ms": round(measured.milliseconds, 2),
    }


def _cell(name: str, value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if name in ("megabytes", "ms") else f"{value:.3f}"
