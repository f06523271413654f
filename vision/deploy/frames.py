"""Where pictures come from: image files, folders, video files, cameras and network streams."""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vision.datasets.image_files import quiet_opencv, read_image
from vision.datasets.image_list import IMAGE_SUFFIXES
from vision.files.guarded import regular_only
from vision.files.stand_ins import refuse_stand_in

if TYPE_CHECKING:  # slow to import
    import cv2

logger = logging.getLogger(__name__)
_CAMERA = re.compile(r"\d{1,3}|/dev/video\d+")
_STREAM = re.compile(r"(rtsp|rtsps|rtmp|http|https|udp|tcp)://", re.IGNORECASE)
OPEN_SECONDS = 10.0  # until a stream that says nothing counts as gone
_LISTS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD", b"v=0")  # how playlists begin, for FFmpeg
LONGEST_PAUSE = 30.0  # seconds between two attempts to reach a stream again


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        source: the image's file, or the video or stream.
        number: of the frame in its source, from 0.
        seconds: since the beginning of the source; None for an image.
        pixels: uint8 [H, W, 3] RGB; None if it could not be read.
        error: why not.
    """

    source: str
    number: int = 0
    seconds: float | None = None
    pixels: np.ndarray | None = None
    error: str | None = None


class ImageFiles:
    """Image files, one after the other; one that cannot be read is a frame with an error."""

    is_live = False

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __iter__(self) -> Iterator[Frame]:
        """Yield a frame for each file."""
        for path in self.paths:
            try:
                yield Frame(str(path), pixels=read_image(path))
            except (OSError, ValueError) as error:
                yield Frame(str(path), error=str(error))

    def close(self) -> None:
        """Do nothing: no file is open."""


class VideoFile:
    """All frames of a video file, in order; one that breaks off ends with an error.

    Attributes:
        fps: frames per second.
    """

    is_live = False

    def __init__(self, path: Path):
        """Open the file.

        Raises:
            ValueError: not a video that OpenCV's FFmpeg reads, or a list of other files.
        """
        self.path = path
        with open(path, "rb", opener=regular_only) as file:  # OpenCV would wait for a pipe
            head = file.read(512)
        refuse_stand_in(head, path)
        if head.startswith(_LISTS):  # FFmpeg would open what it names, a pipe too
            raise ValueError(f"{path}: a list of other files, not a video; give these")
        self._capture = _open(str(path.absolute()))  # FFmpeg takes http:a.mp4 for an address
        if self._capture is None:
            raise ValueError(f"{path}: neither an image nor a video that can be read")
        self.fps = _frame_rate(self._capture)

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames, and a last one with an error if the video breaks off."""
        number = 0
        seconds = 0.0  # where the newest frame stands
        while (pixels := _read(self._capture)) is not None:
            seconds = _position(self._capture)
            yield Frame(str(self.path), number, number / self.fps, pixels)
            number += 1
        if not number:
            yield Frame(str(self.path), error=f"{self.path}: a video without a frame")
            return
        # Of some files the count is the duration times the rate, so both have to fall short.
        count = _frame_count(self._capture)
        if number < count and seconds < 0.95 * (count - 1) / self.fps:
            yield Frame(
                str(self.path),
                number,
                error=f"{self.path}: breaks off after {number} of {count} frames; the file is "
                "damaged or cut short",
            )

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class LiveStream:
    """The newest frame of a camera or a network stream, whenever one is asked for.

    A thread reads all the time and keeps one frame only: what the detector has no time for is left
    out, so that what it sees is never old. A stream that breaks off is opened again, with longer
    and longer pauses; it ends where `close` is called.

    Attributes:
        fps: of the camera, in frames per second.
    """

    is_live = True

    def __init__(self, address: str):
        """Open it, and begin to read.

        Raises:
            ValueError: it cannot be opened now.
        """
        self.address = address
        self._capture = _open(address)
        if self._capture is None:
            raise ValueError(
                f"{address}: no such camera" if _CAMERA.fullmatch(address)
                else f"{address}: no stream there"
            )  # fmt: skip
        self.fps = _frame_rate(self._capture)
        self._begin = time.monotonic()
        self._arrived = threading.Condition()
        self._newest: Frame | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read_on, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the newest frame each time, until `close` is called."""
        while True:
            with self._arrived:
                while self._newest is None and not self._closing.is_set():
                    self._arrived.wait(timeout=0.5)  # Ctrl-C is seen between two waits
                frame, self._newest = self._newest, None
            if frame is None or self._closing.is_set():
                return
            yield frame

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join(timeout=OPEN_SECONDS + 1)

    def _read_on(self) -> None:
        number, pause = 0, 1.0
        while not self._closing.is_set():
            pixels = _read(self._capture) if self._capture else None
            if pixels is not None:
                frame = Frame(self.address, number, time.monotonic() - self._begin, pixels)
                with self._arrived:
                    self._newest = frame
                    self._arrived.notify()
                number, pause = number + 1, 1.0
                continue
            if self._capture:
                self._capture.release()
            logger.warning("%s: broke off; trying again in %.0f s", self.address, pause)
            if self._closing.wait(pause):
                break
            pause = min(2 * pause, LONGEST_PAUSE)
            self._capture = _open(self.address)
            if self._capture:
                logger.warning("%s: back again", self.address)
        if self._capture:
            self._capture.release()


Source = ImageFiles | VideoFile | LiveStream


def open_sources(arguments: list[str]) -> list[Source]:
    """Open what a command line names.

    Args:
        arguments: image files, folders of images, video files, cameras (`0`, `/dev/video0`), and
            addresses such as `rtsp://...`. The images are joined to one source.

    Raises:
        ValueError: nothing there, or nothing that can be opened; names it.
    """
    images: list[Path] = []
    sources: list[Source] = []
    for argument in arguments:
        path = Path(argument)
        if _STREAM.match(argument):
            sources.append(LiveStream(argument))
        elif path.is_dir():
            found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise ValueError(f"{argument}: no images in it")
            images += found
        elif _CAMERA.fullmatch(argument) and not path.is_file():
            sources.append(LiveStream(argument))
        elif not path.exists():
            raise ValueError(f"{argument}: no such image, folder, video or camera")
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            sources.append(VideoFile(path))
    return [ImageFiles(images), *sources] if images else sources


def _open(address: str) -> "cv2.VideoCapture | None":
    """Open a video, camera or stream with OpenCV; None where there is none."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our own line says what is wrong
    import cv2

    quiet_opencv()
    if _CAMERA.fullmatch(address):
        capture = cv2.VideoCapture(int(address) if address.isdigit() else address)
    else:
        milliseconds = int(OPEN_SECONDS * 1000)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _read(capture: "cv2.VideoCapture") -> np.ndarray | None:
    import cv2

    is_there, pixels = capture.read()
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if is_there else None


def _position(capture: "cv2.VideoCapture") -> float:
    """The time of the newest frame in the file, in seconds."""
    import cv2

    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def _frame_count(capture: "cv2.VideoCapture") -> int:
    import cv2

    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # some streams have none: below 0


def _frame_rate(capture: "cv2.VideoCapture") -> float:
    """Frames a second; 25 where the capture has no plausible number."""
    import cv2

    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 1 <= rate <= 240 else 25.0  # some cameras say 0, some streams 90000
