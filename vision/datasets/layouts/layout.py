"""What a layout of data sets is: how a folder is recognised, and how a split of it is opened."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from vision.datasets.annotation_index import AnnotationIndex


class Source(NamedTuple):
    """One split of one folder."""

    index: AnnotationIndex
    image_folder: Path  # what the file names in `index` are relative to


@dataclass(frozen=True)
class OpenOptions:
    """What flags say about opening a folder; the layouts that cannot follow them refuse them.

    Attributes:
        split_files: {split: file of image paths}, added to the folder's splits or instead of them.
        strict_labels: a bad label line is an error, not a warning.
    """

    split_files: Mapping[str, str] = field(default_factory=dict)
    strict_labels: bool = False

    def __bool__(self) -> bool:
        return bool(self.split_files) or self.strict_labels


class Layout(ABC):
    """A data set folder of one layout. `root` is the folder, or a file that stands for it.

    A new layout is a subclass in a file of its own and a line in `choose.LAYOUTS`.
    """

    title: ClassVar[str]  # in messages
    needs: ClassVar[str]  # what a folder has to hold
    takes_options: ClassVar[bool] = False

    def __init__(self, root: Path, options: OpenOptions) -> None:
        """Raises: ValueError where the folder is incomplete or `options` are of no use here."""
        if options and not self.takes_options:
            raise ValueError(
                f"{root}: {self.title} layout, in which --train-split, --val-split and "
                "--strict-labels have no meaning; leave them out"
            )
        self.root = root
        self.options = options

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
