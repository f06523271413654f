"""Pascal VOC's layout: an .xml file for each image; splits as lists or folders."""

from pathlib import Path

from vision.datasets.findings import Findings
from vision.datasets.layouts.layout import Layout, OpenOptions, Source, log_findings
from vision.datasets.voc import VocReader
from vision.datasets.voc_folder import nested_voc_folder, voc_signs


class VocLayout(Layout):
    """A folder of images and .xml annotation files."""

    title = "Pascal VOC"
    needs = "Annotations/*.xml, JPEGImages/ and ImageSets/Main/<split>.txt"
    takes = frozenset({"use_difficult", "one_based"})

    def __init__(self, root: Path, options: OpenOptions) -> None:
        super().__init__(root, options)
        self._reader = VocReader(
            root, use_difficult=options.use_difficult, one_based=options.one_based
        )

    @staticmethod
    def recognise(root: Path, split: str | None) -> str | None:
        """Name the lists of images or the .xml files that are there."""
        return voc_signs(root, split)

    @staticmethod
    def nearest(root: Path, split: str) -> str | None:
        """Point to a folder below that has this layout."""
        folder = nested_voc_folder(root)
        return folder and f"{folder} is of Pascal VOC's layout; give that folder"

    @property
    def splits(self) -> list[str]:
        """Those of ImageSets/Main, or the folders of images and .xml files."""
        return list(self._reader.splits)

    def open(self, split: str) -> Source:
        """Read the .xml files of the split's images."""
        if split not in self.splits:
            raise ValueError(
                f"{self.root}: no {split} split among its VOC lists ({', '.join(self.splits)}); "
                f"write the names of its images into ImageSets/Main/{split}.txt"
            )
        self._reader.findings = Findings()
        source = Source(*self._reader.read(split))
        log_findings(self._reader.findings, f"{self.root}, split {split}")
        return source
