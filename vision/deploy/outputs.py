"""What detections are written to: pictures, videos, lines of JSON, CSV."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Protocol, TextIO

import cv2
import numpy as np

from vision.deploy.detect import Detections
from vision.deploy.frames import Frame
from vision.deploy.tracker import Track
from vision.files.atomic_file import write_atomically
from vision.files.guarded import refuse_link
from vision.files.printable import printable
from vision.visualize import draw_boxes

COLUMNS = ("source", "frame", "seconds", "name", "score", "x1", "y1", "x2", "y2", "track", "lost")


class Output(Protocol):
    """Gets each frame with the rows of `rows_of` or `rows_of_tracks`."""

    def write(self, frame: Frame, rows: list[dict]) -> None:
        """Add a frame."""

    def close(self) -> None:
        """Finish the file."""


def rows_of(found: Detections) -> list[dict]:
    """Return a dict of name, score, xyxy (pixels), class_id and category_id for each detection."""
    columns = (found.names, found.confidence, found.xyxy, found.class_id, found.category_id)
    return [
        {
            "name": name,
            "score": round(float(score), 4),
            "xyxy": [round(x, 2) for x in box.tolist()],
            "class_id": int(class_id),
            "category_id": int(category),
        }
        for name, score, box, class_id, category in zip(*columns, strict=True)
    ]


def rows_of_tracks(tracks: list[Track]) -> list[dict]:
    """Return the same for tracks, with `track`, the number, and `lost`, frames since its box."""
    return [
        {
            "name": track.name,
            "score": round(track.confidence, 4),
            "xyxy": [round(x, 2) for x in track.xyxy.tolist()],
            "class_id": track.class_id,
            "category_id": track.category_id,
            "track": track.id,
            "lost": track.lost,
        }
        for track in tracks
    ]


def draw_rows(pixels: np.ndarray, rows: list[dict]) -> np.ndarray:
    """Draw rows on a copy of an image, uint8 [H, W, 3] RGB; return the copy."""
    boxes = np.array([row["xyxy"] for row in rows], float).reshape(-1, 4)
    names = [f"{r['name']} #{r['track']}" if "track" in r else r["name"] for r in rows]
    return draw_boxes(pixels, boxes, names, scores=[row["score"] for row in rows])


class Pictures:
    """NAME_detections.jpg of each image; of equal names the later get a number.

    Args:
        folder: gets them.
        used: names taken already; changed in place.

    Attributes:
        newest: the last one's path.
    """

    def __init__(self, folder: Path, used: set[str]):
        self.folder = folder
        self._used = used
        self.newest: Path | None = None

    def write(self, frame: Frame, rows: list[dict]) -> None:
        """Draw and write one picture."""
        bgr = cv2.cvtColor(draw_rows(frame.pixels, rows), cv2.COLOR_RGB2BGR)
        _, content = cv2.imencode(".jpg", bgr)
        self.newest = self.folder / unused_name(Path(frame.source).stem, ".jpg", self._used)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.newest, content.tobytes())

    def close(self) -> None:
        """Do nothing: each picture is whole."""


def unused_name(stem: str, suffix: str, used: set[str]) -> str:
    """Return STEM_detections.SUFFIX, numbered where `used` has it, and add it there.

    Compared without case, since some file systems do not tell `A.jpg` from `a.jpg`.
    """
    name, number = f"{stem}_detections{suffix}", 2
    while name.casefold() in used:
        name, number = f"{stem}_{number}_detections{suffix}", number + 1
    used.add(name.casefold())
    return name


class Video:
    """An MP4 of drawn frames; it has its name when it is closed, and a dot before it until then.

    Args:
        path: of the video.
        fps: frames per second.
        is_live: frames come as the detector has time for them, and are repeated so that the video
            lasts as long as the stream did.
    """

    def __init__(self, path: Path, *, fps: float, is_live: bool):
        self.path = path
        self.fps = fps
        self.is_live = is_live
        self._part = path.with_name(f".{path.name}.part.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0

    def write(self, frame: Frame, rows: list[dict]) -> None:
        """Draw and add one frame.

        Raises:
            OSError: the file cannot be written.
        """
        picture = cv2.cvtColor(draw_rows(frame.pixels, rows), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2  # codecs want even
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refuse_link(self._part)  # OpenCV would write through it
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._part), codec, self.fps, self._size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: cannot be written")
        if picture.shape[1::-1] != self._size:  # a camera may change its size, or have an odd one
            picture = cv2.resize(picture, self._size)
        due = round(frame.seconds * self.fps) + 1 if self.is_live else self._written + 1
        while self._written < due:
            self._writer.write(picture)
            self._written += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is not None:
            self._writer.release()
            self._part.replace(self.path)


class JsonLines:
    """A line of JSON for each frame: source, frame, seconds, detections."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, frame: Frame, rows: list[dict]) -> None:
        """Add a line."""
        line = {"source": frame.source, "frame": frame.number, "seconds": frame.seconds}
        print(json.dumps({**line, "detections": rows}), file=self._file, flush=True)

    def close(self) -> None:
        """Close the file."""
        _close(self._file)


class Csv:
    """A row for each detection, under a heading."""

    def __init__(self, file: TextIO):
        self._file = file
        self._writer = csv.writer(file)
        self._writer.writerow(COLUMNS)

    def write(self, frame: Frame, rows: list[dict]) -> None:
        """Add a frame's rows."""
        seconds = "" if frame.seconds is None else round(frame.seconds, 3)
        for row in rows:
            tracked = (row.get("track", ""), row.get("lost", ""))
            place = (printable(frame.source), frame.number, seconds)
            name = printable(row["name"])  # an exported file's may have terminal commands
            self._writer.writerow((*place, name, row["score"], *row["xyxy"], *tracked))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        _close(self._file)


def open_text(path: str) -> TextIO:
    """Open a file to write to, `-` for the standard output; its folder is made.

    Raises:
        OSError: it cannot be written.
    """
    if path == "-":
        return sys.stdout
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w", encoding="utf-8", newline="")


def summary_of(rows: list[dict]) -> str:
    """Count the names of rows in words."""
    counts = Counter(row["name"] for row in rows)
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"


def _close(file: TextIO) -> None:
    if file is not sys.stdout:
        file.close()
