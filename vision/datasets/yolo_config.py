"""Class names and split locations as classes.txt and data.yaml give them."""

from dataclasses import dataclass
from pathlib import Path

from vision.files.limited_yaml import parse_yaml
from vision.files.text import SHORT_TEXT, read_text

_SPLIT_KEYS = {"train": ["train"], "val": ["validation", "valid", "val"], "test": ["test"]}


@dataclass(frozen=True)
class DataYaml:
    """What a data.yaml says: `splits` are the places as written, relative ones to `base`."""

    file: Path
    base: str
    splits: dict[str, list[str]]
    classes: dict[int, str] | None
    has_key_points: bool


def read_class_file(path: Path) -> dict[int, str]:
    """{class id: name} of a file with one name a line.

    Raises:
        ValueError: no names, a name twice, or an empty line among them.
    """
    lines = read_text(path, most_bytes=SHORT_TEXT).splitlines()
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    return _checked_names(path, dict(enumerate(names)))


def find_data_yaml(root: Path) -> Path | None:
    """The data.yaml of a folder, or what stands for it under another name.

    Raises:
        ValueError: there are several that could be meant.
    """
    found = data_yamls(root)
    if len(found) > 1 and found[0].name != "data.yaml":
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{root}: {names} all name classes; give one of them as the data set")
    return found[0] if found else None


def data_yamls(root: Path) -> list[Path]:
    """data.yaml, if it is there, and other YAML files of the folder that name classes."""
    data, others = root / "data.yaml", sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    found = [file for file in others if file != data and _names_classes(file)]
    return [data, *found] if data.is_file() else found


def _names_classes(file: Path) -> bool:
    try:
        entries = parse_yaml(read_text(file, most_bytes=SHORT_TEXT), where=file)
    except (OSError, ValueError):
        return False
    return isinstance(entries, dict) and "names" in entries


def read_data_yaml(path: Path) -> DataYaml:
    """Read the path, train, val, test, nc and names of an ultralytics data file.

    Raises:
        ValueError: it is not YAML, or these entries have another form.
    """
    entries = parse_yaml(read_text(path, most_bytes=SHORT_TEXT), where=path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected lines such as 'train: images/train' and 'names:'")
    splits = {
        split: _as_list(path, key, entries[key])
        for split, keys in _SPLIT_KEYS.items()
        for key in keys
        if entries.get(key)
    }
    classes = _classes_of(path, entries["names"]) if "names" in entries else None
    if classes is not None and entries.get("nc", str(len(classes))) != str(len(classes)):
        raise ValueError(
            f"{path}: nc is {entries['nc']}, but names has {len(classes)}; correct one of them"
        )
    return DataYaml(
        file=path,
        base=str(entries.get("path", "")),
        splits=splits,
        classes=classes,
        has_key_points="kpt_shape" in entries,
    )


def _as_list(path: Path, key: str, value: object) -> list[str]:
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise ValueError(f"{path}: {key}: must be a folder, a .txt file or a list of them")
    return places


def _classes_of(path: Path, names: object) -> dict[int, str]:
    """Class names given as a list or as {id: name}."""
    if isinstance(names, list):
        return _checked_names(path, dict(enumerate(names)))
    if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
        raise ValueError(f"{path}: names: must be a list of names, or lines 'id: name'")
    return _checked_names(path, {int(key): name for key, name in names.items()})


def _checked_names(path: Path, classes: dict[int, str]) -> dict[int, str]:
    if not classes:
        raise ValueError(f"{path}: holds no class names; write one a line, in the order of the ids")
    ids: dict[str, int] = {}
    for class_id, name in classes.items():
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{path}: class {class_id} has no name, though others follow; write one, or "
                "remove the empty line"
            )
        if name in ids:
            raise ValueError(
                f"{path}: the classes {ids[name]} and {class_id} are both called '{name}'; "
                "give each its own name"
            )
        ids[name] = class_id
    return dict(sorted(classes.items()))
