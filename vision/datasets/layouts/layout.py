"""What a layout of data sets is: how a folder is recognised, and how a split of it is opened."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from vision.datasets.annotation_index import AnnotationIndex
from vision.datasets.findings import Findings

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """One split of one folder."""

    index: AnnotationIndex
    image_folder: Path  # what the file names in `index` are relative to


@dataclass(frozen=True)
class OpenOptions:
    """What flags say about opening a folder; a layout takes those that mean something in it.

    Attributes:
        split_files: YOLO: {split: file of image paths}, added to the folder's splits or instead of
            them.
        strict_labels: YOLO: a bad label line is an error, not a warning.
        label_format: YOLO: what a row holds, one of `yolo_formats.LABEL_FORMATS`.
        boxes: COCO: what the four numbers of a `bbox` are, one of BOX_FORMS;
            None: COCO's, unless they look like something else.
        use_difficult: VOC: train on objects marked difficult, too.
        one_based: VOC: pixels are counted from 1.
    """

    split_files: Mapping[str, str] = field(default_factory=dict)
    strict_labels: bool = False
    label_format: str = "auto"
    boxes: str | None = None
    use_difficult: bool = False
    one_based: bool = False

    @property
    def given(self) -> frozenset[str]:
        """The names of the options that are not at their default."""
        defaults = OpenOptions()
        names = (item.name for item in fields(self))
        return frozenset(n for n in names if getattr(self, n) != getattr(defaults, n))

    def only(self, names: frozenset[str]) -> "OpenOptions":
        """These options, the others at their default."""
        return replace(OpenOptions(), **{name: getattr(self, name) for name in names})

    def words(self) -> list[str]:
        """The flags of eval_ssd.py that read the val split in the same way."""
        words = [] if self.boxes is None else ["--boxes", self.boxes]
        words += [] if self.label_format == "auto" else ["--label-format", self.label_format]
        return words + ["--one-based"] * self.one_based

    def flags(self) -> str:
        """The flags of what is given, for a message."""
        names = self.given - {"split_files"}
        lists = [f"--{split}-split" for split in self.split_files]
        return ", ".join([*lists, *sorted("--" + name.replace("_", "-") for name in names)])


NO_OPTIONS = OpenOptions()


class Layout(ABC):
    """A data set folder of one layout. `root` is the folder, or a file that stands for it.

    A new layout is a subclass in a file of its own and a line in `choose.LAYOUTS`.
    """

    title: ClassVar[str]  # in messages
    needs: ClassVar[str]  # what a folder has to hold
    takes: ClassVar[frozenset[str]] = frozenset()  # the OpenOptions that it follows
    lists_all: ClassVar[bool] = True  # an image that no split has is a mistake

    def __init__(self, root: Path, options: OpenOptions) -> None:
        """Take the options that this layout follows.

        Raises:
            OSError: a file cannot be read.
            ValueError: the folder is incomplete.
        """
        self.root = root
        self.options = options.only(self.takes)

    @staticmethod
    @abstractmethod
    def recognise(root: Path, split: str | None) -> str | None:
        """Return what in the folder tells this layout, or None where it has another.

        Args:
            root: the folder, or a file.
            split: where it can be seen at a glance, this split has to be there; None: any.
        """

    @staticmethod
    @abstractmethod
    def nearest(root: Path, split: str) -> str | None:
        """Return what to do to make a folder that was not recognised one of this layout.

        None where nothing in the folder points to this layout.
        """

    @property
    @abstractmethod
    def splits(self) -> list[str]:
        """The names of the splits that `open` takes."""

    @abstractmethod
    def open(self, split: str) -> Source:
        """Read the images and boxes of a split.

        Raises:
            OSError: a file cannot be read.
            ValueError: there is no such split, or something in it is wrong; file, item and remedy
                are named.
        """


def log_findings(findings: Findings, where: str) -> None:
    """Say how many findings of each kind there are."""
    for kind, count in findings.counts.items():
        logger.warning("%s: %d x %s", where, count, kind)
