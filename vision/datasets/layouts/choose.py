"""Which layout a data set folder has, and one way to open a split of any."""

import itertools
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from vision.datasets.folder_contents import contents_of
from vision.datasets.layouts.coco import CocoLayout
from vision.datasets.layouts.layout import NO_OPTIONS, Layout, OpenOptions, Source
from vision.datasets.layouts.open_images import OpenImagesLayout
from vision.datasets.layouts.voc import VocLayout
from vision.datasets.layouts.yolo import YoloLayout

logger = logging.getLogger(__name__)

# In the order in which they are tried: a folder that has COCO annotations besides its labels
# (convert_yolo_to_coco.py writes them) is read as COCO.
LAYOUTS: dict[str, type[Layout]] = {
    "coco": CocoLayout,
    "yolo": YoloLayout,
    "voc": VocLayout,
    "open-images": OpenImagesLayout,
}
DATASET_TYPES = ("auto", *LAYOUTS)


def open_split(
    root: str | os.PathLike,
    split: str,
    *,
    layout: str = "auto",
    options: OpenOptions = NO_OPTIONS,
) -> Source:
    """Read one split of a data set folder; arguments and errors as for `open_folder`."""
    folder = open_folder(root, split=split, layout=layout, options=options)
    check_options_used(options, folder.takes, where=f"{root}: {folder.title} layout")
    return folder.open(split)


def check_options_used(options: OpenOptions, used: Iterable[str], *, where: str) -> None:
    """Refuse options that mean nothing in any of the data sets that were opened.

    Args:
        options: of flags.
        used: the options that the opened layouts take.
        where: the data set, for the message.
    """
    useless = options.only(options.given - frozenset(used))
    if useless.given:
        raise ValueError(f"{where}: {useless.flags()} has no meaning there; leave it out")


def open_folder(
    root: str | os.PathLike,
    *,
    split: str,
    layout: str = "auto",
    options: OpenOptions = NO_OPTIONS,
) -> Layout:
    """Find out how a data set folder is laid out; say it in a log line.

    Args:
        root: the folder.
        split: what is wanted of it first: a layout that has this split goes before one that has
            others only.
        layout: one of DATASET_TYPES; "auto" looks which one the folder has.
        options: of flags; those that the folder's layout does not take are not looked at.

    Raises:
        OSError: a file cannot be read.
        ValueError: no layout fits, or the folder is incomplete; says what was found and what to do.
    """
    root = Path(root)
    name = _recognise(root, split, options) if layout == "auto" else layout
    return LAYOUTS[name](root, options)


def _recognise(root: Path, split: str, options: OpenOptions) -> str:
    """The name of the layout to take."""
    if not root.exists():
        raise ValueError(f"{root}: no such data set folder")
    # With a flag of one layout, a folder that could also be read as another is of that one.
    fitting = {name: kind for name, kind in LAYOUTS.items() if options.given <= kind.takes}
    for candidates, wanted in itertools.product((fitting, LAYOUTS), (split, None)):
        reasons = {name: kind.recognise(root, wanted) for name, kind in candidates.items()}
        reasons = {name: reason for name, reason in reasons.items() if reason}
        if reasons:
            name, *others = reasons
            also = "".join(
                f"; --dataset-type {other} reads its {LAYOUTS[other].title} layout "
                f"({reasons[other]})"
                for other in others
            )
            logger.info("%s: %s layout (%s)%s", root, LAYOUTS[name].title, reasons[name], also)
            return name
    raise ValueError(_nothing_fits(root, split, fitting or LAYOUTS))


def _nothing_fits(root: Path, split: str, candidates: dict[str, type[Layout]]) -> str:
    """What lies there, and the nearest layout."""
    if root.is_file():
        return f"{root}: a file; give the folder that holds the annotations and the images"
    needs = "; ".join(f"{kind.title}: {kind.needs}" for kind in candidates.values())
    found = (kind.nearest(root, split) for kind in candidates.values())
    remedy = next((text for text in found if text), None)
    return f"{root}: no data set of a known layout ({needs}); it holds {contents_of(root)}" + (
        f"; {remedy}" if remedy else ""
    )
