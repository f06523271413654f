"""What to try next: rules on the numbers of a run, each with a flag and what it may win."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
        gain: AP50 that could be won at most; 0 for what wins time.
        statement: what was found, with its numbers.
        remedy: what to do, a command or its flags.
    """

    gain: float
    statement: str
    remedy: str


def find_advice(analysis: Analysis, history: RunHistory, train: SplitFacts | None) -> list[Advice]:
    """Apply the rules; return at most LIMIT, by what they could win."""
    rules = [
        *_small_boxes(analysis, train),
        *_overfitting(history),
        *_unfinished(history),
        *_rare_classes(analysis, train),
        *_errors(analysis, history),
        *_slow_data(history),
    ]
    return sorted(rules, key=lambda advice: -advice.gain)[:LIMIT]


def _small_boxes(analysis: Analysis, train: SplitFacts | None) -> Iterator[Advice]:
    """Missed boxes that are small, or that no prior fits: other priors, or a larger input."""
    missed = analysis.errors.is_missed
    if not missed.any():
        return
    hopeless = missed & ~analysis.is_covered()
    share = hopeless.sum() / missed.sum()
    network = analysis.given.network
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
        height, width = network.image_size
        larger = [math.ceil(1.5 * side / 32) * 32 for side in (height, width)]
        times = larger[0] / height
        yield Advice(
            gain,
            f"{percent(small_share)} of {missed.sum()} missed boxes are under {SMALL} px at the "
            f"input of {height}x{width}. At {larger[0]}x{larger[1]} they would be {times:.2g} "
            f"times as large, for about {times**2:.2g} times the work.",
            "train_ssd.py --image-size " + "x".join(map(str, dict.fromkeys(larger))),
        )


def coverage_by_fitting(train: SplitFacts, facts: NetworkFacts) -> tuple[float, float]:
    """Return the share of the training boxes that some prior fits: now, and with fitted priors."""
    step = max(1, -(-len(train.labels) // _FIT_BOXES))
    boxes, rows = seen_in_views(train.relative[::step], facts.network.tiles)
    labels = train.labels[::step][rows]
    sample = BoxSample(boxes, labels, class_weights(labels))
    fitted = build_priors(
        facts.feature_map_sizes,
        facts.image_size,
        fit_priors(facts.network.priors, facts.feature_map_sizes, facts.image_size, sample),
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
    lost = np.nanmax(ap) - ap[rows[-1]] if (~np.isnan(ap)).any() else 0.0
    remedy = "train_ssd.py --augmentation ssd"
    if history.arguments.get("augmentation") == "ssd":
        remedy = f"train_ssd.py --epochs {history.epochs[lowest]} --weight-decay " + (
            f"{3 * (history.arguments.get('weight_decay') or 0.003):g}"
        )
    yield Advice(
        float(lost),
        f"val loss rises from epoch {history.epochs[lowest]} on, from {val[lowest]:.3f} to "
        f"{val[rows[-1]]:.3f}, while the training loss falls from {train[lowest]:.3f} to "
        f"{train[rows[-1]]:.3f}: the network learns the images by heart. AP is {lost:.3f} below "
        "its best.",
        remedy,
    )


def _unfinished(history: RunHistory) -> Iterator[Advice]:
    """AP still rises at the end: train longer."""
    ap = history.column("AP")
    rows = np.flatnonzero(~np.isnan(ap))
    if len(rows) < 3 or history.folder is None:
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
            f"train_ssd.py --resume {history.folder} --epochs {last + max(5, last // 2)}",
        )


def _rare_classes(analysis: Analysis, train: SplitFacts | None) -> Iterator[Advice]:
    """Classes with few boxes that are below the others."""
    if train is None or len(analysis.names) < 2:
        return
    counts = train.class_counts(len(analysis.names))
    rows = analysis.given.metrics["per_class"]
    found = np.array([np.nan if r["AP50"] is None else r["AP50"] for r in rows.values()])
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
    if gains[CLASSIFICATION] >= 0.02 and starts_blank:
        yield Advice(
            float(gains[CLASSIFICATION]),
            f"{counts[CLASSIFICATION]} detections have the right place and the wrong class, and "
            "the backbone started from random weights.",
            "train_ssd.py --base-net imagenet",
        )
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
        yield Advice(
            float(gains[BACKGROUND]),
            f"{counts[BACKGROUND]} detections are far from every box. First look at the likely "
            f"label errors: what is not labelled counts as wrong. Training sees {ratio:g} "
            "negatives for each positive.",
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
