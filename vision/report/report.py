"""report.html: what a validation and its run amount to, every statement computed."""

import logging
import sys
import time
from pathlib import Path

import numpy as np

from vision.evaluation.errors import KINDS, MEANINGS
from vision.files.atomic_file import write_atomically
from vision.report import figures, tables
from vision.report.advice import find_advice
from vision.report.analysis import Analysis
from vision.report.data_figures import DataSection
from vision.report.gallery import (
    GALLERIES,
    NUM_PICTURES,
    draw_pictures,
    likely_label_errors,
)
from vision.report.history_figures import history_figures
from vision.report.inputs import RunHistory, read_history
from vision.report.page import as_utf8, render_page
from vision.report.run_facts import change_lines, run_commands, run_facts, run_sentence
from vision.report.svg import Canvas
from vision.report.words import count_of, duration, interval_text, percent

logger = logging.getLogger(__name__)
REPORT = "report.html"


def write_report(
    folder: Path,
    analysis: Analysis,
    *,
    run: Path | None = None,
    data: DataSection | None = None,
) -> Path | None:
    """Write `folder`/report.html. A failure is a warning of one line, never an exception.

    Args:
        folder: gets the file, which is replaced whole.
        analysis: of what was measured.
        run: the run folder whose config.json and metrics.jsonl belong to it, if there is one.
        data: of an earlier validation on the same data, whose drawings are used again.

    Returns:
        The file; None where it could not be written.
    """
    path = folder / REPORT
    start = time.perf_counter()
    try:
        history = read_history(run)
        write_atomically(path, as_utf8(build_report(analysis, history, data)))
    # A run of days must not end because a picture could not be drawn, whatever the reason.
    except Exception as error:  # noqa: BLE001
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning("%s was not written: %s", path, reason)
        return None
    logger.info("%s, %.1f s", path, time.perf_counter() - start)
    return path


def build_report(analysis: Analysis, history: RunHistory, data: DataSection | None = None) -> str:
    """Put the page together."""
    given, canvas = analysis.given, Canvas()
    data = data or DataSection(given)
    advice = find_advice(analysis, history, data.train)
    drawn_history = history_figures(history, canvas)
    sections = [
        ("next", "What to try next"), ("run", "The run"),
        *([("training", "Training")] if drawn_history else []),
        ("precision", "How good it is"), ("curves", "Curves"),
        ("confusion", "What is taken for what"), ("errors", "Where AP is lost"),
        ("pictures", "Pictures"), *([("data", "The data")] if data.figures else []),
    ]  # fmt: skip
    return render_page(
        "report.html",
        title=Path(given.weights).name or given.weights,
        headline=_headline(analysis),
        tiles=_tiles(analysis),
        sections=sections,
        advice=advice,
        advice_sentence=_advice_sentence(advice),
        run_sentence=run_sentence(analysis, history),
        facts=run_facts(analysis, history, data.splits),
        commands=run_commands(analysis, history),
        history_figures=drawn_history,
        history_sentence=_history_sentence(history),
        changes=change_lines(history),
        precision_sentence=_precision_sentence(analysis),
        twelve=tables.twelve_rows(analysis),
        bars=figures.class_bars(analysis, canvas),
        class_sentence=_class_sentence(analysis),
        classes=tables.class_rows(analysis, data.train),
        curves=[
            drawing(analysis, canvas)
            for drawing in (
                figures.precision_recall_by_iou,
                figures.precision_recall_by_class,
                figures.f1_over_threshold,
                figures.calibration,
            )
        ],
        curve_sentence=_curve_sentence(analysis),
        confusion=tables.confusion_table(analysis),
        confusion_sentence=_confusion_sentence(analysis),
        error_figures=[
            figures.error_bars(analysis, canvas),
            figures.coverage_by_size(analysis, canvas),
        ],
        error_sentence=_error_sentence(analysis),
        size_sentence=_size_sentence(analysis),
        meanings=list(zip(KINDS, MEANINGS, strict=True)),
        kinds=KINDS,
        size_names=figures.SIZE_NAMES,
        errors_by_size=tables.errors_by_size(analysis),
        errors_by_class=tables.errors_by_class(analysis),
        galleries=_galleries(analysis),
        data_figures=data.figures,
        data_sentence=_data_sentence(analysis, data.splits),
        footer=f"Made from {given.dataset}, split {given.split}, by {_program()}.",
    )


def _program() -> str:
    return Path(sys.argv[0]).name or "the toolkit"


def _headline(analysis: Analysis) -> str:
    given = analysis.given
    what = (
        f"{given.network.description} on "
        f"{analysis.num_images} images of {given.dataset}, split {given.split}"
    )
    if given.epoch is not None:
        what = f"Epoch {given.epoch}, {what}"
    ap = given.metrics["AP"]
    if ap is None:
        return f"{what}: no box to find, so there is no AP."
    return f"{what}: AP {ap:.3f}{interval_text(analysis.intervals['AP'])}."


def _tiles(analysis: Analysis) -> list[dict]:
    metrics, best = analysis.given.metrics, analysis.curve.best_f1()
    tiles = []
    for name in ("AP", "AP50", "AP75", "AR100"):
        ends = analysis.intervals[name]
        value = "n/a" if metrics[name] is None else f"{metrics[name]:.3f}"
        note = f"95 %: {ends[0]:.3f} to {ends[1]:.3f}" if ends else "no interval"
        tiles.append({"name": name, "value": value, "note": note})
    if best:
        note = f"precision {best.precision:.2f}, recall {best.recall:.2f}"
        tiles.append({"name": "best F1", "value": f"{best.f1:.3f}", "note": note})
        note = "score of the best F1, all classes"
        tiles.append({"name": "threshold", "value": f"{best.threshold:.2f}", "note": note})
    return tiles


def _advice_sentence(advice: list) -> str:
    if not advice:
        return "No rule found anything that could win 0.005 AP50 or AP or more."
    return (
        f"{count_of(len(advice), 'rule')} found something, ordered by the AP50, or the AP of "
        "the epochs, that could be won at most if what they name were put right alone."
    )


def _history_sentence(history: RunHistory) -> str:
    if not history.records:
        return ""
    seconds = np.nansum(history.column("seconds")) + np.nansum(history.column("eval_seconds"))
    resumes = history.resumes
    changed = sum(bool(entry["changes"]) for entry in resumes)
    epochs = count_of(len(history.records), "epoch")
    sentence = f"{epochs} in {duration(seconds)} of training and validation."
    if resumes:
        sentence += (
            f" {count_of(len(resumes), 'resume')}, {changed or 'none'} with changes; dotted lines "
            "mark where."
        )
    return sentence


def _precision_sentence(analysis: Analysis) -> str:
    ends = analysis.intervals["AP"]
    if ends is None:
        return f"{analysis.num_images} images and {analysis.num_boxes} boxes give no interval."
    return (
        f"Other images of the same kind would likely give an AP between {ends[0]:.3f} and "
        f"{ends[1]:.3f}: a spread of {ends[1] - ends[0]:.3f}, from {analysis.num_images} images "
        "drawn again and again (bootstrap). A smaller gain than that on these images alone says "
        "little; compare_runs.py tells two runs apart more sharply."
    )


def _class_sentence(analysis: Analysis) -> str:
    worst = analysis.worst_classes(2)
    absent = sum(row["AP"] is None for row in analysis.given.metrics["per_class"].values())
    if not worst:
        return f"None of the {len(analysis.names)} classes has a box here."
    parts = " and ".join(f"{name} ({ap:.3f})" for name, ap in worst)
    sentence = f"The lowest AP: {parts}."
    if absent:
        sentence += f" {absent} of {len(analysis.names)} classes have no box here."
    return sentence + " Precision, recall and F1 are at IoU 0.5."


def _curve_sentence(analysis: Analysis) -> str:
    strict = analysis.curve.at_precision(tables.WANTED_PRECISION)
    if strict is None:
        return f"No score threshold gives a precision of {tables.WANTED_PRECISION}."
    return (
        f"A precision of {tables.WANTED_PRECISION} over all classes needs scores above "
        f"{strict.threshold:.2f}; {percent(strict.recall)} of the boxes are then found."
    )


def _confusion_sentence(analysis: Analysis) -> str:
    table, pair = analysis.confusion, tables.most_confused(analysis)
    sentence = (
        f"At scores above {analysis.threshold:.4f}, {np.trace(table)} of {analysis.num_boxes} "
        f"boxes are found as what they are, {table[:-1, -1].sum()} are not found, and "
        f"{table[-1, :-1].sum()} detections are of the background or second ones of a box."
    )
    if pair:
        sentence += f" Most often confused: {pair[0]} taken for {pair[1]}, "
        sentence += f"{count_of(pair[2], 'time')}."
    boxes = table[:-1].sum(axis=1)
    silent = np.flatnonzero((boxes > 0) & (table[:-1, :-1].diagonal() == 0))
    own = [k for k in silent if analysis.class_thresholds[k] < analysis.threshold]
    if own:
        parts = [
            f"{boxes[k]} of {analysis.names[k]} ({analysis.class_thresholds[k]:.2f})"
            for k in own[:3]
        ]
        more = f" and {count_of(len(own) - 3, 'other class', 'other classes')}" * (len(own) > 3)
        sentence += (
            f" At this threshold none is found of the {', '.join(parts)}{more}; in brackets the "
            "class's own best threshold."
        )
    return sentence


def _error_sentence(analysis: Analysis) -> str:
    losses = analysis.largest_losses()
    if analysis.errors.ap50 is None or not losses:
        return "Nothing is lost, or there is nothing to find."
    parts = ", ".join(f"{kind} {gain:.3f}" for kind, gain, _ in losses if gain >= 0.0005)
    return (
        f"AP50 is {analysis.errors.ap50:.3f}. If one kind of error alone were put right, it would "
        f"rise by: {parts} (method of TIDE, Bolya et al. 2020, at IoU 0.5)."
    )


def _size_sentence(analysis: Analysis) -> str:
    missed = analysis.errors.is_missed
    if not missed.any():
        return "No box is missed."
    sentence = (
        f"Missed boxes: {missed.sum()}, with a median of "
        f"{np.median(analysis.box_sizes[missed]):.0f} px at the input"
    )
    if not analysis.has_priors:
        return f"{sentence}."
    covered = analysis.is_covered()[missed]
    return (
        f"{sentence}; with {covered.sum()} of them ({percent(covered.mean())}) some prior has an "
        "IoU of 0.5 or more, so the network could have learned these."
    )


def _galleries(analysis: Analysis) -> list[dict]:
    suspects = likely_label_errors(analysis)
    shown = {example.key for example in suspects}
    what = (
        "detections and labels that speak against each other, the likeliest error of the labels "
        "first; look before you change anything"
    )
    found = [("Likely label errors", what, suspects)]
    for title, (what, choose) in GALLERIES.items():
        examples = [example for example in choose(analysis) if example.key not in shown]
        found.append((title, f"{what}, those above left out", examples[:NUM_PICTURES]))
    galleries = []
    for title, what, examples in found:
        pictures = draw_pictures(examples, analysis.given.sources)
        sentence = f"{len(pictures) or 'None'} shown: {what}."
        galleries.append({"title": title, "sentence": sentence, "pictures": pictures})
    return galleries


def _data_sentence(analysis: Analysis, splits: dict) -> str:
    parts = [
        f"{name}: {split.num_images} images ({split.num_empty} without boxes), "
        f"{len(split.labels)} boxes"
        for name, split in splits.items()
    ]
    sentence = "; ".join(parts) + ". Sizes are at the network's input. Crowds are left out."
    unannotated = analysis.given.ground_truth.unannotated
    if unannotated is None:
        return sentence
    counts = unannotated[:, 1:].sum(axis=0)
    absent = np.argsort(-counts, kind="stable")[: (counts > 0).sum()]
    shown = ", ".join(f"{analysis.names[k]} in {count_of(counts[k], 'image')}" for k in absent[:5])
    return (
        f"{sentence} Nobody marked {shown}{', ...' if len(absent) > 5 else ''}: what is detected "
        "of a class there counts neither as right nor as wrong, in every number of this page."
    )
