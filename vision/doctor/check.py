"""What is wrong, odd or worth knowing about a data set, with counts, examples and remedies."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from vision.datasets.annotation_index import AnnotationIndex
from vision.datasets.findings import no_progress
from vision.datasets.image_names import ImageFinder
from vision.datasets.join_classes import joined_names, with_classes
from vision.datasets.layouts.layout import Layout, Source
from vision.doctor.duplicates import near_pairs, same_pixels
from vision.doctor.look import Looks, look_at_images

# What makes the numbers of a training wrong, or ends it; the others are worth knowing.
WRONG = frozenset(
    {"split_unreadable", "missing_image", "unreadable_image", "wrong_size", "leak", "contradiction"}
)
_NUM_EXAMPLES = 5
_FEW_BOXES = 20


@dataclass(frozen=True)
class Finding:
    """One kind of thing: how often, where for example, and what to do."""

    kind: str
    count: int
    what: str
    examples: list[str]
    remedy: str

    @property
    def is_wrong(self) -> bool:
        """Whether it makes numbers wrong or ends a training."""
        return self.kind in WRONG


@dataclass
class CheckedData:
    """A data set that was looked at.

    Attributes:
        splits: {name: source}, with the same classes.
        starts: {name: position of its first image among all}.
        paths: of all images.
        looks: at all images.
        within: pairs of images of one split that look the same, int64 [N, 2].
        across: images of other splits that look like one of train, with that one, int64 [N, 2].
        findings: the worst first.
    """

    splits: dict[str, Source]
    starts: dict[str, int]
    paths: list[str]
    looks: Looks
    within: np.ndarray
    across: np.ndarray
    findings: list[Finding] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """Of labels 1..C."""
        source = next(iter(self.splits.values()))
        return [category.name for category in source.index.categories]

    def split_of(self, position: int) -> str:
        """The split of an image."""
        return max((start, name) for name, start in self.starts.items() if start <= position)[1]


def check_folder(
    folder: Layout, *, progress: Callable[..., Iterable] = no_progress
) -> CheckedData | list[Finding]:
    """Look at all splits of a data set, at every annotation and every image.

    Args:
        folder: the data set.
        progress: wraps the iteration over the images.

    Returns:
        What was found; where no split can be read, only the findings.
    """
    splits, findings = open_all(folder)
    if not splits:
        return findings
    missing = []
    for name, source in splits.items():
        splits[name], found = _present(name, source)
        missing += found
    starts, paths = {}, []
    for name, (index, image_folder) in splits.items():
        starts[name] = len(paths)
        paths += [os.path.join(image_folder, index.file_name(i)) for i in range(len(index))]
    looks = look_at_images(paths, progress=progress)
    data = CheckedData(splits, starts, paths, looks, *_look_alikes(splits, starts, looks))
    found = [*findings, *missing, *_unreadable(data), *_wrong_sizes(data)]
    found += [*_leaks(data), *_duplicates(data)]
    found += [f for name, source in splits.items() for f in _annotations(name, source.index)]
    found += _classes(data)
    data.findings = sorted(found, key=lambda finding: not finding.is_wrong)
    return data


def _look_alikes(
    splits: dict[str, Source], starts: dict[str, int], looks: Looks
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that look the same: inside each split, and of the others with train."""
    rows = {n: np.arange(starts[n], starts[n] + len(s.index)) for n, s in splits.items()}
    within = [near_pairs(looks, own, own) for own in rows.values()]
    within = np.concatenate([pairs[pairs[:, 0] < pairs[:, 1]] for pairs in within])
    train = rows.get("train", np.zeros(0, np.int64))
    across = [near_pairs(looks, own, train, limit=1) for n, own in rows.items() if n != "train"]
    return within, np.concatenate([np.zeros((0, 2), np.int64), *across])


def open_all(folder: Layout) -> tuple[dict[str, Source], list[Finding]]:
    """Open every split with the same classes; those that cannot be read become findings."""
    splits, findings = {}, []
    for name in folder.splits:
        try:
            source = folder.open(name)
            # VOC's test list is val and test both; it is looked at once.
            same = [s for s in splits.values() if s.index.name_bytes == source.index.name_bytes]
            if not any(os.path.samefile(s.image_folder, source.image_folder) for s in same):
                splits[name] = source
        except (OSError, ValueError) as error:
            remedy = "correct what the message names"
            findings.append(Finding("split_unreadable", 1, str(error), [name], remedy))
    indices = [source.index for source in splits.values()]
    names = joined_names(indices) if indices else []
    splits = {n: s._replace(index=with_classes(s.index, names)) for n, s in splits.items()}
    for name, source in splits.items():
        absent = [names[label - 1] for label in sorted(source.index.unannotated)]
        if absent:
            what = f"classes of other splits that {name} does not list"
            remedy = "give all splits the same categories"
            findings.append(Finding("split_without_class", len(absent), what, absent[:5], remedy))
    return splits, findings


def _present(name: str, source: Source) -> tuple[Source, list[Finding]]:
    """The source without the images whose file is not there, and those as a finding."""
    index, folder = source
    finder = ImageFinder(folder)
    names = [index.file_name(i) for i in range(len(index))]
    is_there = np.array([finder.find(file) == file for file in names], dtype=bool)
    absent = [names[i] for i in np.flatnonzero(~is_there)]
    if absent:
        source = source._replace(index=index.take(np.flatnonzero(is_there)))
    what = f"images of {name} that are not in {folder}"
    return source, _found("missing_image", absent, what, "restore them, or remove their entries")


def _unreadable(data: CheckedData) -> list[Finding]:
    bad = [f"{data.paths[i]} ({why})" for i, why in data.looks.problems.items()]
    what = "images that cannot be decoded"
    return _found("unreadable_image", bad, what, "validate_image_files.py names and moves them")


def _wrong_sizes(data: CheckedData) -> list[Finding]:
    """Images that a training would stop at: it reads them upright, or as they are stored."""
    stated = np.concatenate([source.index.sizes for source in data.splits.values()])
    is_wrong = data.looks.is_read()
    for size in (data.looks.stored, data.looks.upright):
        is_wrong &= (stated != size).any(axis=1)
    texts = [
        "{}: {}x{} pixels, annotated as {}x{}".format(
            data.paths[i], *data.looks.upright[i, ::-1], *stated[i, ::-1]
        )
        for i in np.flatnonzero(is_wrong)
    ]
    what = "images have another size than their annotations say, and end a training"
    return _found("wrong_size", texts, what, "replace the image, or correct its size and boxes")


def _leaks(data: CheckedData) -> list[Finding]:
    """Images that one split trains on and another measures with."""
    is_same = _same_bytes(data, data.across)
    findings = []
    for name in data.splits:
        if name == "train":
            continue
        leaked: dict[int, tuple[bool, int]] = {}
        for (image, other), exact in zip(data.across.tolist(), is_same.tolist(), strict=True):
            if data.split_of(image) == name and exact >= leaked.get(image, (False, 0))[0]:
                leaked[image] = (exact, other)
        size = len(data.splits[name].index)
        for exact, how in ((True, "are the same file as"), (False, "look the same as")):
            findings += _found(
                "leak",
                [f"{data.paths[a]} and {data.paths[b]}" for a, (e, b) in leaked.items()
                 if e == exact],
                f"of the {size} images of {name} {how} one of train",
                f"the numbers on {name} are too good: split_dataset.py --group-by duplicates makes "
                "lists without",
            )  # fmt: skip
    return findings


def _duplicates(data: CheckedData) -> list[Finding]:
    """Images that are there more than once in one split, and what their labels say of it."""
    is_same = _same_bytes(data, data.within)
    same, near = data.within[is_same], data.within[~is_same]
    differ = np.array([_boxes_of(data, a) != _boxes_of(data, b) for a, b in same], dtype=bool)

    def found(kind: str, chosen: np.ndarray, what: str, remedy: str) -> list[Finding]:
        """Make a finding of pairs of images, int64 [N, 2]."""
        texts = [f"{data.paths[a]} and {data.paths[b]}" for a, b in chosen[:_NUM_EXAMPLES].tolist()]
        return _found(kind, texts, what, remedy, count=len(chosen))

    return [
        *found("contradiction", same[differ], "pairs of the same file with different boxes",
                "keep one of them, with the boxes of both"),
        *found("duplicate", same, "pairs of the same file in one split",
                "they count twice; keep one of them"),
        *found("near_duplicate", near, "pairs that look the same in one split",
                "frames of one video teach little more than one of them; "
                "split_dataset.py --group-by duplicates keeps them on one side"),
    ]  # fmt: skip


def _same_bytes(data: CheckedData, pairs: np.ndarray) -> np.ndarray:
    number = same_pixels(data.looks)
    return number[pairs[:, 0]] == number[pairs[:, 1]]


def _boxes_of(data: CheckedData, position: int) -> list:
    """The labels and boxes of an image, sorted."""
    name = data.split_of(position)
    index, row = data.splits[name].index, position - data.starts[name]
    rows = slice(index.box_offsets[row], index.box_offsets[row + 1])
    boxes = index.boxes_xywh[rows].round(1).tolist()
    return sorted(zip(index.labels[rows].tolist(), boxes, strict=True))


def _annotations(name: str, index: AnnotationIndex) -> list[Finding]:
    """What the annotations of a split say by themselves."""
    findings = [
        Finding("contradiction", 1, f"{name}: {doubt}", [], "correct the annotations")
        for doubt in index.doubts
    ]
    findings += [
        Finding("accepted", count, f"{name}: {what}", [], "fix_coco_annotations.py writes them in")
        for what, count in index.accepted.items()
    ]
    for reason, image_ids in index.rejected.items():
        texts = [f"image {number}" for number in dict.fromkeys(image_ids.tolist())]
        what = f"boxes of {name}: {reason}, left out"
        findings += _found("box_left_out", texts, what, "correct them", count=len(image_ids))
    outside = [f"image {number}" for number in dict.fromkeys(index.clipped_ids.tolist())]
    what = f"boxes of {name} that reach outside their image by more than a pixel, clipped"
    return findings + _found(
        "box_outside", outside, what, "correct them where they are not cut by the border",
        count=len(index.clipped_ids),
    )  # fmt: skip


def _classes(data: CheckedData) -> list[Finding]:
    """Classes that are rare in training, or absent from a split."""
    findings = []
    names = np.array(data.class_names)
    for split, source in data.splits.items():
        counts = source.index.boxes_per_class()
        absent = names[counts == 0].tolist()
        what = f"classes without a box in {split}"
        findings += _found("absent_class", absent, what, "collect some, or leave the class out")
        if split == "train":
            few = np.flatnonzero((counts > 0) & (counts < _FEW_BOXES))
            texts = [f"{names[k]} ({counts[k]})" for k in few[np.argsort(counts[few])]]
            what = f"classes with fewer than {_FEW_BOXES} boxes in train"
            remedy = "collect more, or leave them out"
            findings += _found("rare_class", texts, what, remedy)
    return findings


def _found(
    kind: str, items: Sequence[str], what: str, remedy: str, *, count: int | None = None
) -> list[Finding]:
    """One finding of these items; none where there is none."""
    if not items:
        return []
    number = len(items) if count is None else count
    return [Finding(kind, number, what, list(items[:_NUM_EXAMPLES]), remedy)]


def as_json(findings: Sequence[Finding]) -> list[dict]:
    """The findings as plain values."""
    return [asdict(finding) for finding in findings]
