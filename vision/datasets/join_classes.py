"""Giving data sets of different classes one list of classes, by the classes' names."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vision.datasets.annotation_index import BOX_COLUMNS, AnnotationIndex, Category
from vision.datasets.class_names import tidy_name
from vision.datasets.layouts.layout import Source

logger = logging.getLogger(__name__)


def joined_names(indices: Sequence[AnnotationIndex]) -> list[str]:
    """The class names of all data sets, in the order in which they first appear."""
    return list(dict.fromkeys(c.name for index in indices for c in index.categories))


def with_classes(index: AnnotationIndex, class_names: Sequence[str]) -> AnnotationIndex:
    """Number the labels of an index by a list of class names.

    Args:
        index: of one data set.
        class_names: of labels 1..C from now on. Those that the index lacks are `unannotated`;
            boxes of classes that are not among them are left out.

    Raises:
        ValueError: no class is in both, or one is twice in the list.
    """
    own = {category.name: category for category in index.categories}
    if list(own) == list(class_names):
        return index
    # Names in a model of an older version may have line breaks and blanks at their ends.
    wanted = [tidy_name(name, label) for label, name in enumerate(class_names, 1)]
    if not set(own) & set(wanted):
        raise ValueError(
            f"{index.annotation_file}: has none of the classes: {', '.join(own)} in the file, "
            f"{', '.join(wanted)} wanted; rename its categories, or add them"
        )
    if twice := [name for name, count in Counter(wanted).items() if count > 1 and name in own]:
        raise ValueError(
            f"{index.annotation_file}: of {twice[0]!r} in it two classes are wanted; the names of "
            "the model's classes were edited"
        )
    new_label = np.zeros(len(index.categories) + 1, np.int32)
    categories, unannotated = [], set()
    next_id = max(category.category_id for category in index.categories) + 1
    for label, (name, key) in enumerate(zip(class_names, wanted, strict=True), 1):
        if key in own:
            new_label[own[key].label] = label
            if own[key].label in index.unannotated:
                unannotated.add(label)
            categories.append(replace(own[key], label=label, name=name))
        else:
            unannotated.add(label)
            categories.append(Category(label, next_id, next_id, name))
            next_id += 1
    labels = new_label[index.labels]
    aligned = replace(
        index, categories=categories, labels=labels, unannotated=frozenset(unannotated)
    )
    return aligned if (labels > 0).all() else _without_boxes(aligned, labels == 0)


def source_with_classes(source: Source, class_names: Sequence[str]) -> Source:
    """`with_classes` of a source, with a log line for each class that is not in both."""
    for difference in differences(source.index, class_names):
        logger.warning("%s: %s", source.index.annotation_file, difference)
    return source._replace(index=with_classes(source.index, class_names))


def differences(index: AnnotationIndex, class_names: Sequence[str]) -> list[str]:
    """Say in words what `with_classes` changes about which boxes count; empty where nothing."""
    own = {category.name: category for category in index.categories}
    class_names = [tidy_name(name, label) for label, name in enumerate(class_names, 1)]
    absent = [name for name in class_names if name not in own]
    surplus = [name for name in own if name not in class_names]
    said = []
    if absent:
        said.append(f"{_shown(absent)} not annotated there, and not counted in its images")
    if surplus:
        counts = np.bincount(index.labels, minlength=len(index.categories) + 1)
        boxes = sum(int(counts[own[name].label]) for name in surplus)
        said.append(f"{_shown(surplus)} ({boxes} boxes) left out")
    near = {name.casefold().strip(): name for name in own}
    pairs = [(near[key], name) for name in absent if (key := name.casefold().strip()) in near]
    said += [f"{theirs!r} may be meant as {ours!r}: rename it there" for theirs, ours in pairs]
    return said


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _without_boxes(index: AnnotationIndex, drop: np.ndarray) -> AnnotationIndex:
    keep = ~drop
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return replace(
        index,
        box_offsets=kept_before[index.box_offsets],
        **{name: getattr(index, name)[keep] for name in BOX_COLUMNS},
    )
