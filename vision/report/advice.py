"""What to try next: rules on the numbers of a run, each with a flag and what it may win."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vision.engine.optim import DEFAULT_STEPS
from vision.evaluation.errors import (
    BACKGROUND,
    CLASSIFICATION,
    DUPLICATE,
    LOCALISATION,
    MISSED,
    gain_if_found,
)
from vision.ops.priors import build_priors
from vision.priors.boxes import BoxSample, class_weights, seen_in_views
from vision.priors.coverage import MATCHED_FROM, best_prior_iou
from vision.priors.fit import fit_priors
from vision.report.analysis import Analysis
from vision.report.dataset import SplitFacts
from vision.report.inputs import NetworkFacts, RunHistory
from vision.report.tables import most_confused
from vision.report.words import percent

LIMIT = 5
SMALL = 32  # pixels of the input, of a box's side
FEW_BOXES = 50
MIN_GAIN = 0.005  # AP; less is not worth a line
_FIT_BOXES = 3000  # enough for the shares that are stated


@dataclass(frozen=True)
class Advice:
    """Something to try.

    Attributes:
        gain: what could be won at most; 0 for what wins time.
        statement: what was found, with its numbers.
        remedy: what to do, a command or its flags.
        measure: what is won: AP50, or of what the epochs say, AP.
    """

    gain: float
    statement: str
    remedy: str
    measure: str = "AP50"


def find_advice(analysis: Analysis, history: RunHistory, train: SplitFacts | None) -> list[Advice]:
    """Apply the rules; return at most LIMIT, by what they could win."""
    rules = [
        *_small_boxes(analysis, train),
        *_small_classes(analysis),
        *_overfitting(history),
        *_unfinished(history),
        *_rare_classes(analysis, train),
        *_errors(analysis, history),
        *_slow_data(history),
    ]
    rules.sort(key=lambda advice: -advice.gain)
    # Of two with one remedy, the one that wins more.
    by_remedy = {advice.remedy: advice for advice in reversed(rules)}
    return [advice for advice in rules if by_remedy[advice.remedy] is advice][:LIMIT]


def _small_boxes(analysis: Analysis, train: SplitFacts | None) -> Iterator[Advice]:
    """Missed boxes that are small, or that no prior fits: other priors, or a larger input."""
    missed = analysis.errors.is_missed
    if not missed.any():
        return
    network = analysis.given.network
    hopeless = missed & ~analysis.is_covered() if analysis.has_priors else np.zeros_like(missed)
    share = hopeless.sum() / missed.sum()
    if share > 0.2 and train is not None:
        before, after = coverage_by_fitting(train, network)
        gain = gain_if_found(analysis.matches, hopeless)
        if 1 - after < 0.7 * (1 - before) and gain >= MIN_GAIN:
            yield Advice(
                gain,
                f"{percent(share)} of {missed.sum()} missed boxes fit no prior (best IoU under "
                f"{MATCHED_FROM}). Fitted priors raise the share of training boxes that some prior "
                f"fits from {before:.2f} to {after:.2f}.",
                "train_ssd.py --priors fit",
            )
    is_small = analysis.box_sizes < SMALL
    small_share = (missed & is_small).sum() / missed.sum()
    gain = gain_if_found(analysis.matches, missed & is_small)
    if small_share > 0.25 and gain >= MIN_GAIN:
        effect, remedy = _larger_input(network)
        yield Advice(
            gain,
            f"{percent(small_share)} of {missed.sum()} missed boxes are under {SMALL} px at the "
            f"input. {effect}",
            remedy,
        )


def _small_classes(analysis: Analysis) -> Iterator[Advice]:
    """Classes of small boxes that are below the others: a larger input."""
    labels = analysis.matches.ground_truth.labels[analysis.is_box]
    found = _ap50_of_classes(analysis)
    medians = np.array([
        np.median(analysis.box_sizes[analysis.is_box][labels == k + 1]) if ap50 >= 0 else np.nan
        for k, ap50 in enumerate(found)
    ])  # fmt: skip
    small, large = np.flatnonzero(medians < SMALL), np.flatnonzero(medians >= SMALL)
    if not len(small) or not len(large):
        return
    usual = found[large].mean()
    gain = float((usual - found[small].mean()) * len(small) / (len(small) + len(large)))
    if gain < MIN_GAIN:
        return
    worst = small[np.argsort(found[small], kind="stable")]
    shown = ", ".join(f"{analysis.names[k]} {medians[k]:.0f} px" for k in worst[:3])
    effect, remedy = _larger_input(analysis.given.network)
    yield Advice(
        gain,
        f"In {len(small)} of {len(small) + len(large)} classes half of the boxes or more are under "
        f"{SMALL} px at the input (median: {shown}{', ...' if len(small) > 3 else ''}). Their AP50 "
        f"is {found[small].mean():.3f}, that of the others {usual:.3f}. {effect}",
        remedy,
    )


def _larger_input(network: NetworkFacts) -> tuple[str, str]:
    """Say what an input about 1.5 times as large does, and its flag."""
    height, width = network.image_size
    larger = [math.ceil(1.5 * side / 32) * 32 for side in (height, width)]
    times = larger[0] / height
    effect = (
        f"At {larger[0]}x{larger[1]} instead of {height}x{width} they would be {times:.2g} times "
        f"as large, for about {times**2:.2g} times the work."
    )
    return effect, "train_ssd.py --image-size " + "x".join(map(str, dict.fromkeys(larger)))


def _ap50_of_classes(analysis: Analysis) -> np.ndarray:
    """AP50 of labels 1..C; NaN for one without boxes."""
    rows = analysis.given.metrics["per_class"].values()
    return np.array([np.nan if row["AP50"] is None else row["AP50"] for row in rows])


def coverage_by_fitting(train: SplitFacts, facts: NetworkFacts) -> tuple[float, float]:
    """Return the share of the training boxes that some prior fits: now, and with fitted priors."""
    step = max(1, -(-len(train.labels) // _FIT_BOXES))
    boxes, rows = seen_in_views(train.relative[::step], facts.tiles)
    labels = train.labels[::step][rows]
    sample = BoxSample(boxes, labels, class_weights(labels))
    fitted = build_priors(
        facts.feature_map_sizes,
        facts.image_size,
        fit_priors(facts.prior_maps, facts.feature_map_sizes, facts.image_size, sample),
    )
    now, then = (
        float((best_prior_iou(sample.boxes, priors) >= MATCHED_FROM).mean())
        for priors in (facts.priors_cxcywh, fitted.numpy())
    )
    return now, then


def _overfitting(history: RunHistory) -> Iterator[Advice]:
    """The val loss has turned while the training loss falls on."""
    val, train, ap = (history.column(name) for name in ("val_loss", "loss", "AP"))
    rows = np.flatnonzero(~np.isnan(val))
    if len(rows) < 4:
        return
    lowest = rows[int(np.argmin(val[rows]))]
    later = rows[rows > lowest]
    if len(later) < 2 or val[rows[-1]] < 1.03 * val[lowest] or train[rows[-1]] > train[lowest]:
        return
    known = ap[~np.isnan(ap)]
    lost = float(known.max() - known[-1]) if len(known) else 0.0
    remedy = "train_ssd.py --augmentation ssd"
    if history.arguments.get("augmentation") == "ssd":
        remedy = f"train_ssd.py --epochs {history.epochs[lowest]} --weight-decay " + (
            f"{3 * (history.arguments.get('weight_decay') or 0.003):g}"
        )
    yield Advice(
        lost,
        f"val loss rises from epoch {history.epochs[lowest]} on, from {val[lowest]:.3f} to "
        f"{val[rows[-1]]:.3f}, while the training loss falls from {train[lowest]:.3f} to "
        f"{train[rows[-1]]:.3f}: the network overfits. AP is {lost:.3f} "
        "below its best.",
        remedy,
        "AP",
    )


def _unfinished(history: RunHistory) -> Iterator[Advice]:
    """AP still rises at the end: train longer."""
    ap = history.column("AP")
    rows = np.flatnonzero(~np.isnan(ap))
    if len(rows) < 2 or history.folder is None:
        return
    last = history.epochs[rows[-1]]
    earlier = rows[history.epochs[rows] <= last - max(1, last // 4)]
    if not len(earlier) or rows[-1] != rows[int(np.argmax(ap[rows]))]:
        return
    since = earlier[-1]
    rise = float(ap[rows[-1]] - ap[since])
    if rise >= MIN_GAIN:
        yield Advice(
            rise,
            f"AP still rises: by {rise:.3f} since epoch {history.epochs[since]}, and the last "
            f"epoch, {last}, is the best.",
            _train_longer(history),
            "AP",
        )


def _train_longer(history: RunHistory) -> str:
    """Return the command that goes on with the run for half as many epochs again."""
    last = history.epochs[-1]
    folder = shlex.quote(str(history.folder))
    return f"./train_ssd.py --resume {folder} --epochs {last + max(5, last // 2)}"


def _rare_classes(analysis: Analysis, train: SplitFacts | None) -> Iterator[Advice]:
    """Classes with few boxes that are below the others."""
    if train is None or len(analysis.names) < 2:
        return
    counts = train.class_counts(len(analysis.names))
    found = _ap50_of_classes(analysis)
    rare = np.flatnonzero((counts < FEW_BOXES) & ~np.isnan(found))
    common = np.flatnonzero((counts >= FEW_BOXES) & ~np.isnan(found))
    if not len(rare) or not len(common):
        return
    usual = found[common].mean()
    gain = float((usual - found[rare].mean()) * len(rare) / (len(rare) + len(common)))
    if gain < MIN_GAIN or len(rare) > len(common):
        return
    worst = rare[np.argsort(found[rare], kind="stable")]
    shown = ", ".join(f"{analysis.names[k]} has {counts[k]}" for k in worst[:3])
    yield Advice(
        gain,
        f"{len(rare)} classes have fewer than {FEW_BOXES} boxes to learn from ({shown}"
        f"{', ...' if len(rare) > 3 else ''}). Their AP50 is {found[rare].mean():.3f}, that of the "
        f"others {usual:.3f}.",
        "Add images of them, or start from a detector that knows them: "
        "train_ssd.py --pretrained-ssd FILE",
    )


def _errors(analysis: Analysis, history: RunHistory) -> Iterator[Advice]:
    """Kinds of errors that cost much and have a flag."""
    errors, arguments = analysis.errors, history.arguments
    gains, counts = errors.gains, errors.counts
    starts_blank = arguments.get("base_net") == "none" and not arguments.get("pretrained_ssd")
    if gains[CLASSIFICATION] >= 0.02:
        statement = f"{counts[CLASSIFICATION]} detections have the right place and the wrong class"
        pair = most_confused(analysis)
        if pair:
            statement += f", above the threshold most often {pair[0]} taken for {pair[1]}"
        steps = history.column("step")
        if starts_blank:
            statement += ", and the backbone started from random weights."
            remedy = "train_ssd.py --base-net imagenet"
        elif history.folder is not None and len(steps) and steps[-1] < DEFAULT_STEPS:
            statement += (
                f". {steps[-1]:.0f} steps are few: without --epochs a run has {DEFAULT_STEPS}."
            )
            remedy = _train_longer(history)
        else:
            statement += ". See the confusions below: classes that look alike need more images."
            remedy = _larger_input(analysis.given.network)[1]
        yield Advice(float(gains[CLASSIFICATION]), statement, remedy)
    if gains[DUPLICATE] >= 0.01:
        iou = analysis.given.iou_threshold
        yield Advice(
            float(gains[DUPLICATE]),
            f"{counts[DUPLICATE]} detections are second ones of a box that was found; boxes of a "
            f"class may overlap by {iou:g} until one of them goes.",
            f"eval_ssd.py --iou-threshold {max(0.1, iou - 0.1):.2g}",
        )
    if gains[LOCALISATION] >= 0.05 and gains[LOCALISATION] > gains[MISSED]:
        ratio = arguments.get("iou_threshold", 0.4)
        yield Advice(
            float(gains[LOCALISATION]),
            f"{counts[LOCALISATION]} detections have the right class and an IoU of 0.1 to 0.5. "
            f"Priors learn a box from an overlap of {ratio:g} on.",
            f"train_ssd.py --iou-threshold {ratio + 0.1:.2g}",
        )
    if gains[BACKGROUND] >= 0.02:
        ratio = arguments.get("neg_pos_ratio", 3.0)
        is_sure = analysis.matches.detections.scores > analysis.threshold
        sure = int(((errors.kinds == BACKGROUND) & is_sure).sum())
        yield Advice(
            float(gains[BACKGROUND]),
            f"{counts[BACKGROUND]} detections are far from every box, {sure} of them above the "
            f"threshold of {analysis.threshold:.4f}. First look at the likely label errors below: "
            f"what is not labelled counts as wrong. Training sees {ratio:g} negatives for each "
            "positive.",
            f"train_ssd.py --neg-pos-ratio {ratio + 2:g}",
        )


def _slow_data(history: RunHistory) -> Iterator[Advice]:
    """Steps that wait for data; wins time, not AP."""
    waits = history.column("data_wait")
    if not len(waits) or np.isnan(waits).all() or np.nanmean(waits) < 0.3:
        return
    cached = history.arguments.get("cache", "none") != "none"
    workers = history.arguments.get("workers") or 0
    yield Advice(
        0.0,
        f"{percent(np.nanmean(waits))} of an epoch is waiting for data, with {workers} workers. "
        "This costs time, not AP.",
        f"train_ssd.py --workers {workers + 4}" if cached else "train_ssd.py --cache ram",
    )
