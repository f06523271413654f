"""The tracker: worked out by hand from detectNet's rules."""

import numpy as np

from vision.deploy.detect import Detections
from vision.deploy.tracker import IouTracker


def frame(*objects: tuple[float, str]) -> Detections:
    """Boxes of 10x10 pixels at these x, of these classes."""
    x = np.array([x for x, _ in objects], np.float32).reshape(-1)
    names = [name for _, name in objects]
    zero = np.zeros_like(x)
    labels = np.array([("cat", "dog").index(name) + 1 for name in names], np.int64)
    return Detections(
        np.stack([x, zero, x + 10, zero + 10], axis=1), np.full(len(x), 0.9), labels, names, labels
    )


def shown(tracker: IouTracker, *objects) -> list[tuple]:
    return [(t.id, t.name, float(t.xyxy[0]), t.lost) for t in tracker.update(frame(*objects))]


def test_an_object_is_shown_when_it_was_found_again_three_times():
    tracker = IouTracker()
    assert [shown(tracker, (x, "cat")) for x in (0, 2, 4)] == [[], [], []]
    assert shown(tracker, (6, "cat")) == [(0, "cat", 6.0, 0)]


def test_a_box_of_another_class_or_with_too_little_overlap_is_another_object():
    tracker = IouTracker(min_frames=1)
    shown(tracker, (0, "cat"))
    # 10x10 boxes 3 apart: IoU 70 / 130 = 0.54; 4 apart: 60 / 140 = 0.43.
    assert shown(tracker, (3, "cat")) == [(0, "cat", 3.0, 0)]
    assert shown(tracker, (7, "cat")) == [(0, "cat", 3.0, 1)]
    assert shown(tracker, (7, "cat"), (3, "dog")) == [(0, "cat", 3.0, 2), (1, "cat", 7.0, 0)]


def test_the_best_overlap_wins_and_the_oldest_track_chooses_first():
    tracker = IouTracker(min_frames=1)
    shown(tracker, (0, "cat"), (2, "cat"))
    assert shown(tracker, (1, "cat"), (3, "cat")) == [(0, "cat", 1.0, 0), (1, "cat", 3.0, 0)]
    # The older one takes what overlaps it most, though the younger one would have it too.
    assert shown(tracker, (2, "cat")) == [(0, "cat", 2.0, 0), (1, "cat", 3.0, 1)]


def test_a_lost_object_keeps_its_box_for_a_while_and_its_number_if_it_comes_back():
    tracker = IouTracker(min_frames=1, drop_frames=3)
    shown(tracker, (0, "cat"))
    shown(tracker, (0, "cat"))
    assert shown(tracker) == [(0, "cat", 0.0, 1)]
    assert shown(tracker) == [(0, "cat", 0.0, 2)]
    assert shown(tracker, (1, "cat")) == [(0, "cat", 1.0, 0)]
    assert [len(shown(tracker)) for _ in range(3)] == [1, 1, 0]
    shown(tracker, (1, "cat"))
    assert shown(tracker, (1, "cat")) == [(1, "cat", 1.0, 0)]
