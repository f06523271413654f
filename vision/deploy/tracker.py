"""Follow objects from frame to frame by the overlap of their boxes."""

from dataclasses import dataclass

import numpy as np

from vision.deploy.detect import Detections


@dataclass
class Track:
    """One object that is followed.

    Attributes:
        xyxy: float32 [4], its newest box in pixels.
        confidence: of that box.
        class_id, name, category_id: as in Detections.
        id: a number of its own, from 0, once it was seen long enough; -1 before.
        frames: in which it was found again.
        lost: frames since the newest box.
    """

    xyxy: np.ndarray
    confidence: float
    class_id: int
    name: str
    category_id: int
    id: int = -1
    frames: int = 0
    lost: int = 0


class IouTracker:
    """Gives detections numbers that stay with their objects.

    The rules and defaults of jetson-inference's detectNet (objectTrackerIOU): each track, the
    oldest first, takes the detection of its class that overlaps its last box most; what is left
    over begins a track. A track is shown once it was found again in `min_frames` frames, and
    forgotten after `drop_frames` frames in a row without it; until then its last box stays.

    Args:
        min_frames: see above.
        drop_frames: see above.
        overlap: least IoU with the last box.
    """

    def __init__(self, *, min_frames: int = 3, drop_frames: int = 15, overlap: float = 0.5):
        self.min_frames = min_frames
        self.drop_frames = drop_frames
        self.overlap = overlap
        self._tracks: list[Track] = []
        self._num_ids = 0

    def update(self, found: Detections) -> list[Track]:
        """Take the next frame's detections; return the tracks to show, the oldest first."""
        ious = _ious(np.array([t.xyxy for t in self._tracks]).reshape(-1, 4), found.xyxy)
        classes = np.array([track.class_id for track in self._tracks], int)
        ious[classes[:, None] != found.class_id] = 0
        for track, row in zip(self._tracks, ious, strict=True):
            best = int(row.argmax()) if len(row) else -1
            if best >= 0 and row[best] > 0 and row[best] >= self.overlap:
                track.xyxy, track.confidence = found.xyxy[best], float(found.confidence[best])
                track.frames, track.lost = track.frames + 1, 0
                ious[:, best] = -1  # taken
            else:
                track.lost += 1
            if track.id < 0 and track.frames >= self.min_frames:
                track.id, self._num_ids = self._num_ids, self._num_ids + 1
        is_taken = (ious < 0).any(axis=0) if len(ious) else np.zeros(len(found), bool)
        self._tracks = [track for track in self._tracks if track.lost < self.drop_frames]
        self._tracks += [
            Track(
                found.xyxy[i], float(found.confidence[i]), int(found.class_id[i]),
                found.names[i], int(found.category_id[i]),
            )
            for i in np.flatnonzero(~is_taken).tolist()
        ]  # fmt: skip
        return [track for track in self._tracks if track.frames >= self.min_frames]


def _ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes [N, 4] and [M, 4] xyxy, [N, M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clip(0).prod(axis=2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b - inter
    return np.divide(inter, union, out=np.zeros_like(inter, float), where=union > 0)
