"""Open Images' layout: a CSV of boxes and a folder of images for each split."""

from pathlib import Path

from vision.datasets.layouts.layout import Layout, OpenOptions, Source
from vision.datasets.open_images import NAMES, OpenImagesReader, find_open_images


class OpenImagesLayout(Layout):
    """A folder as open_images_downloader.py makes it, or with the official CSVs."""

    title = "Open Images"
    needs = "sub-<split>-annotations-bbox.csv and <split>/"

    def __init__(self, root: Path, options: OpenOptions) -> None:
        super().__init__(root, options)
        self._reader = OpenImagesReader(root)

    @staticmethod
    def recognise(root: Path, split: str | None) -> str | None:
        """Name the split's CSV file of boxes."""
        found = find_open_images(root)
        place = found.get(split) if split else next(iter(found.values()), None)
        return place and place.csv.relative_to(root).as_posix()

    @staticmethod
    def nearest(root: Path, split: str) -> str | None:
        """Point to a CSV file of boxes whose images lie elsewhere."""
        file = next(root.glob("*annotations-bbox.csv*"), None)
        if file is None:
            return None
        folder = NAMES.get(split, (split,))[0]
        return f"{file.name} is of Open Images: the images that it lists belong into {folder}/"

    @property
    def splits(self) -> list[str]:
        """Those that have a CSV file and a folder of images."""
        return list(self._reader.splits)

    def open(self, split: str) -> Source:
        """Read the split's CSV file."""
        if split not in self.splits:
            raise ValueError(
                f"{self.root}: no {split} split of Open Images ({', '.join(self.splits)}); "
                f"open_images_downloader.py fetches it"
            )
        return Source(*self._reader.read(split))
