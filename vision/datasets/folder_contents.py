"""What lies in a folder, in a few words, for messages that say what was found instead."""

import os
from collections import Counter
from pathlib import Path

_MAX_SHOWN = 10


def contents_of(root: Path) -> str:
    """Name what lies in a folder: images/, notes.txt, 12 x .jpg."""
    with os.scandir(root) as entries:
        folders, files = [], []
        for entry in sorted(entries, key=lambda entry: entry.name):
            (folders if entry.is_dir() else files).append(entry.name)
    suffixes = Counter(os.path.splitext(name)[1] for name in files)
    shown = [f"{name}/" for name in folders]
    shown += [name for name in files if suffixes[os.path.splitext(name)[1]] == 1]
    shown += [f"{count} x {suffix or 'files'}" for suffix, count in suffixes.items() if count > 1]
    more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
    return ", ".join(shown[:_MAX_SHOWN]) + more if shown else "nothing"
