"""What the folders and files of a split are called by COCO, YOLO, Roboflow, FiftyOne, ..."""

# The first is the name here; a year may follow each.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
YEARS = ("2017", "2014")


def spellings(split: str) -> list[str]:
    """The names that a folder or file of a split may have, the likeliest first."""
    names = SPLITS.get(split, (split,))
    return [*names, *(name + year for name in names for year in YEARS)]


def split_of(name: str) -> str:
    """The split that a folder or file of this name is for; one of no usual name is itself one."""
    return next((split for split in SPLITS if name in spellings(split)), name)
