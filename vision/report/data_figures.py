"""The drawings of the data: classes, sizes, shapes and places, of train and of val."""

from functools import cached_property

import numpy as np

from vision.report.dataset import (
    MAX_BOXES,
    NUM_PLACES,
    RATIO_STEPS,
    SIZE_STEPS,
    Shift,
    SplitFacts,
    describe_split,
    find_shifts,
)
from vision.report.inputs import NetworkFacts, Validation
from vision.report.svg import BLUE, GREEN, ORANGE, Canvas, Figure, label, legend
from vision.report.words import percent

MAX_BARS = 20
HEIGHT = 2.3


class DataSection:
    """The data that a validation was made on: the same for every validation of a run.

    Args:
        given: one of the validations.
    """

    def __init__(self, given: Validation):
        self._given = given

    @cached_property
    def val(self) -> SplitFacts:
        """The split that was measured."""
        given = self._given
        return describe_split(given.sources, given.class_names, given.network)

    @cached_property
    def train(self) -> SplitFacts | None:
        """The training split, where it is known."""
        given = self._given
        if not given.train_sources:
            return None
        return describe_split(given.train_sources, given.class_names, given.network)

    @property
    def splits(self) -> dict[str, SplitFacts]:
        """Both by name, the one that was measured last."""
        train = {"train": self.train} if self.train else {}
        return {**train, self._given.split: self.val}

    @cached_property
    def figures(self) -> list[Figure]:
        """The drawings; none where a split has no boxes."""
        if not all(len(split.labels) for split in self.splits.values()):
            return []
        given = self._given
        return data_figures(self.splits, given.class_names, given.network, Canvas("d"))


def data_figures(
    splits: dict[str, SplitFacts], class_names: list[str], network: NetworkFacts, canvas: Canvas
) -> list[Figure]:
    """Draw the splits side by side.

    Args:
        splits: by name; the last is the one that was measured. All have boxes.
        class_names: of labels 1..C.
        network: for its priors and its input.
        canvas: of the page.
    """
    shifts = {}
    if len(splits) == 2:
        shifts = {s.name: s for s in find_shifts(*splits.values(), class_names)}
    return [
        _classes(splits, class_names, shifts.get("classes"), canvas),
        _sizes(splits, network, shifts.get("box sizes"), canvas),
        _shapes(splits, network, shifts.get("box shapes"), canvas),
        *(_places(name, split, shifts.get("places"), canvas) for name, split in splits.items()),
    ]


def _classes(
    splits: dict[str, SplitFacts], class_names: list[str], shift: Shift | None, canvas: Canvas
) -> Figure:
    counts = {name: split.class_counts(len(class_names)) for name, split in splits.items()}
    total = sum(counts.values())
    order = np.argsort(-total, kind="stable")[:MAX_BARS]
    height = 0.8 / len(counts)
    with canvas.figure(height=0.9 + 0.17 * max(4, len(order))) as (drawing, axes):
        for i, (name, values) in enumerate(counts.items()):
            share = values[order] / max(1, values.sum())
            places = np.arange(len(order)) + (i - (len(counts) - 1) / 2) * height
            bars = axes.barh(places, share, height=height, color=(BLUE, ORANGE)[i], label=name)
            axes.bar_label(bars, [str(count) for count in values[order]], fontsize=6, padding=2)
        axes.set_yticks(range(len(order)), [label(class_names[k]) for k in order])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12, y=0.01)
        axes.set(xlabel="share of the split's boxes")
        legend(drawing)
        few = [class_names[k] for k in np.argsort(total, kind="stable") if total[k] < 50]
        caption = f"{len(class_names)} classes"
        if len(class_names) > MAX_BARS:
            caption += f", of which the {MAX_BARS} with the most boxes are drawn"
        caption += f"; {len(few) or 'none'} with fewer than 50 boxes"
        caption += f" ({', '.join(few[:3])}{', ...' if len(few) > 3 else ''}). " if few else ". "
        return canvas.finish(drawing, "Boxes by class", caption + shift_text(shift))


def _sizes(
    splits: dict[str, SplitFacts], network: NetworkFacts, shift: Shift | None, canvas: Canvas
) -> Figure:
    priors = network.priors_cxcywh
    prior_sizes = np.zeros(0)
    if priors is not None:
        prior_sizes = np.sqrt((priors[:, 2:] * np.array(network.image_size)[::-1]).prod(axis=1))
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        for name, split, color in zip(splits, splits.values(), (BLUE, ORANGE), strict=False):
            weights = np.full(len(split.sizes), 1 / len(split.sizes))
            sizes = split.sizes.clip(SIZE_STEPS[0], SIZE_STEPS[-1])
            axes.hist(
                sizes, SIZE_STEPS, weights=weights, color=color, label=name, histtype="stepfilled",
                alpha=0.45, edgecolor=color,
            )  # fmt: skip
        for i, size in enumerate(np.unique(prior_sizes.round())):
            text = "priors" if i == 0 else None
            axes.axvline(size, 0, 0.06, color=GREEN, linewidth=1.5, label=text)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="square root of the area, pixels of the input", ylabel="share of the boxes")
        legend(drawing)
        medians = [f"{np.median(s.sizes):.0f} px ({name})" for name, s in splits.items()]
        caption = f"Half of the boxes are under {' and '.join(medians)}"
        if priors is not None:
            fits = [f"{percent(s.coverage(network))} of {name}" for name, s in splits.items()]
            caption += f". A prior with IoU 0.5 or more fits {' and '.join(fits)}"
        if priors is not None and max(len(split.sizes) for split in splits.values()) > MAX_BOXES:
            caption += f" (of at most {MAX_BOXES} evenly chosen boxes)"
        return canvas.finish(drawing, "Box sizes", f"{caption}. {shift_text(shift)}")


def _shapes(
    splits: dict[str, SplitFacts], network: NetworkFacts, shift: Shift | None, canvas: Canvas
) -> Figure:
    longest, what = 3.0, ""
    if network.priors_cxcywh is not None:
        sides = network.priors_cxcywh[:, 2:] * np.array(network.image_size)[::-1]
        longest, what = float((sides.max(axis=1) / sides.min(axis=1)).max()), ", the longest prior"
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        outside = {}
        for name, split, color in zip(splits, splits.values(), (BLUE, ORANGE), strict=False):
            weights = np.full(len(split.ratios), 1 / len(split.ratios))
            ratios = split.ratios.clip(RATIO_STEPS[0], RATIO_STEPS[-1])
            axes.hist(
                ratios, RATIO_STEPS, weights=weights, color=color, label=name,
                histtype="stepfilled", alpha=0.45, edgecolor=color,
            )  # fmt: skip
            outside[name] = float(((split.ratios > longest) | (split.ratios < 1 / longest)).mean())
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="width over height, at the input", ylabel="share of the boxes")
        legend(drawing)
        parts = " and ".join(f"{percent(share)} of {name}" for name, share in outside.items())
        caption = f"Longer than {longest:.2g} to 1{what}: {parts}. {shift_text(shift)}"
        return canvas.finish(drawing, "Box shapes", caption)


def _places(name: str, split: SplitFacts, shift: Shift | None, canvas: Canvas) -> Figure:
    places = split.places()
    with canvas.figure(height=HEIGHT) as (drawing, axes):
        axes.grid(visible=False)
        image = axes.imshow(
            places, cmap="viridis", extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest"
        )
        drawing.colorbar(image, ax=axes, label="share of the centres")
        axes.set(xlabel="across the image", ylabel="down the image")
        middle = slice(NUM_PLACES // 4, -NUM_PLACES // 4)
        inner = places[middle, middle].sum()
        caption = (
            f"In {name}, {percent(inner)} of the boxes are centred in the middle quarter of the "
            f"image (25 % if they were spread evenly). {shift_text(shift)}"
        )
        return canvas.finish(drawing, f"Places of the boxes, {name}", caption)


def shift_text(shift: Shift | None) -> str:
    """Say whether train and val differ, and where most."""
    if shift is None:
        return ""
    limits = f"distance {shift.distance:.3f}, by chance up to {shift.by_chance:.3f}"
    if not shift.is_seen:
        return f"Train and val do not differ more than chance explains ({limits})."
    before, after = shift.shares
    return (
        f"Train and val differ ({limits}), most in {shift.largest}: {percent(before)} of train, "
        f"{percent(after)} of val."
    )
