"""The detect.py beside exported files: `vision/deploy/detect.py`, less what they do not need."""

import re
from collections.abc import Mapping
from pathlib import Path

from vision.files.guarded import read_regular

NAME = "detect.py"
_SOURCE = Path(__file__).with_name(NAME)
_BEGIN, _END = re.compile(r" *# only (.+):"), re.compile(r" *# end")
_NOTE = "# With the parts for: "
_RUNTIME = {"jetson": "onnx", "onnx": "onnx", "openvino": "openvino", "tflite": "tflite"}


def parts_of(about: Mapping) -> set[str]:
    """Return the parts that a file needs, by what it says of itself."""
    kind = about["target"].removesuffix("-int8")
    parts = {_RUNTIME[kind], about["resize"]}
    wanted = {
        "jetson": kind == "jetson",
        "frigate": about.get("frigate"),
        "raw_heads": about.get("raw_heads"),
        "tiles": about["tiles"] > 1,
    }
    return parts | {part for part, is_wanted in wanted.items() if is_wanted}


def device_script(parts: set[str]) -> str:
    """Return the script with these parts: lines between `# only PART, PART:` and `# end`."""
    lines: list[str] = []
    is_wanted = [True]  # of the parts around the line, the outermost first
    for line in _SOURCE.read_text().splitlines():
        if begin := _BEGIN.fullmatch(line):
            is_wanted.append(is_wanted[-1] and not parts.isdisjoint(begin[1].split(", ")))
        elif _END.fullmatch(line):
            is_wanted.pop()
        elif is_wanted[-1]:
            lines.append(line)
    lines.insert(1, _NOTE + ", ".join(sorted(parts)))
    return "\n".join(lines) + "\n"


def script_beside(folder: Path, about: Mapping) -> bytes:
    """Return the script for a file, and for those that the script in its folder was for."""
    parts = parts_of(about)
    try:
        _, note, *_ = read_regular(folder / NAME).decode().split("\n", 2)
    except (OSError, ValueError):  # none there, or another file of this name
        note = ""
    if note.startswith(_NOTE):
        parts |= set(note.removeprefix(_NOTE).split(", "))
    return device_script(parts).encode()
