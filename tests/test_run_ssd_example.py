"""run_ssd_example.py: images, folders and videos in; pictures, videos, JSON lines and CSV out."""

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from script_runs import call
from test_detect import photo

from vision.deploy import Detector
from vision.deploy.outputs import COLUMNS, unused_name


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two photos of one name, a damaged one, and a video of ten frames."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("a.png", "a.jpg"):
        Image.fromarray(photo()).save(folder / name)
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    video = cv2.VideoWriter(
        str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (200, 150)
    )
    for shift in range(10):
        video.write(np.roll(photo()[:, :, ::-1], 2 * shift, axis=1))
    video.release()
    return folder


def test_a_folder_with_a_damaged_image(inputs, onnx_file, tmp_path):
    done = call(
        "run_ssd_example", "--trained-model", onnx_file, "--output-dir", tmp_path / "pictures",
        "--json", tmp_path / "found.jsonl", "--csv", tmp_path / "found.csv", inputs,
    )  # fmt: skip
    assert done.code == 1
    assert done.errors == [
        f"error: {inputs / 'b.jpg'}: truncated or damaged; run validate_image_files.py"
    ]
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["a_2_detections.jpg", "a_detections.jpg"]
    expected = Detector.load(onnx_file).predict(inputs / "a.png")
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == [str(inputs / "a.jpg"), str(inputs / "a.png")]
    rows = lines[1]["detections"]
    assert len(rows) > 3 and [row["name"] for row in rows] == expected.names
    assert [row["category_id"] for row in rows] == expected.category_id.tolist()
    np.testing.assert_allclose([row["xyxy"] for row in rows], expected.xyxy, atol=0.01)
    with open(tmp_path / "found.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert table and tuple(table[0]) == COLUMNS
    assert len(table) == sum(len(line["detections"]) for line in lines)
    assert float(table[0]["score"]) == lines[0]["detections"][0]["score"]


def test_a_video(inputs, onnx_file, tmp_path):
    done = call(
        "run_ssd_example", "--trained-model", onnx_file, "--output-dir", tmp_path,
        "--json", tmp_path / "found.jsonl", "--track", inputs / "clip.avi",
    )  # fmt: skip
    assert (done.code, done.errors) == (0, [])
    assert "10 frames, " in done.out and str(tmp_path / "clip_detections.mp4") in done.out
    video = cv2.VideoCapture(str(tmp_path / "clip_detections.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 10 and video.get(cv2.CAP_PROP_FPS) == 10
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(10))
    assert [line["seconds"] for line in lines] == pytest.approx([n / 10 for n in range(10)])
    tracked = [[row["track"] for row in line["detections"]] for line in lines]
    assert tracked[:3] == [[], [], []] and 0 in tracked[9]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clip_detections.mp4",
        "found.jsonl",
    ]


def test_a_video_that_breaks_off_is_named_and_what_was_found_stays(inputs, onnx_file, tmp_path):
    content = (inputs / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    done = call(
        "run_ssd_example", "--trained-model", onnx_file, "--json", tmp_path / "found.jsonl",
        tmp_path / "cut.avi",
    )  # fmt: skip
    num_lines = len((tmp_path / "found.jsonl").read_text().splitlines())
    assert done.code == 1 and 0 < num_lines < 10
    assert done.errors == [
        f"error: {tmp_path / 'cut.avi'}: breaks off after {num_lines} of 10 frames; the file is "
        "damaged or cut short"
    ]


@pytest.mark.parametrize("flag", ["--score-threshold=2", "--iou-threshold=-0.1"])
def test_thresholds_beyond_their_range_are_wrong_usage(onnx_file, flag):
    done = call("run_ssd_example", "--trained-model", onnx_file, "--json=-", flag, "a.png")
    assert done.code == 2 and f"{flag.split('=')[0]} must be in 0..1" in done.errors[-1]


def test_json_to_the_terminal_stays_json(inputs, onnx_file):
    done = call("run_ssd_example", "--trained-model", onnx_file, "--json", "-", inputs / "a.png")
    assert done.code == 0 and json.loads(done.out)["source"] == str(inputs / "a.png")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--output-dir=out", "gone.jpg"], "gone.jpg: no such image, folder, video or camera"),
        (["--output-dir=out", "notes.txt"], "notes.txt: neither an image nor a video"),
        (["--output-dir=out", "empty"], "empty: no images in it"),
        (["--output-dir=out", "/dev/video999"], "/dev/video999: no such camera"),
        (["--json=-", "--iou-threshold=0.4", "a.png"], "its suppression is part of the file"),
        (["--json=-", "--box-voting=0.5", "a.png"], "export it again with another --box-voting"),
    ],
)
def test_bad_input_is_one_line(onnx_file, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "empty").mkdir()
    Image.fromarray(photo()).save(tmp_path / "a.png")
    done = call("run_ssd_example", "--trained-model", onnx_file, *argv)
    assert (done.code, done.out, len(done.errors)) == (1, "", 1) and words in done.errors[0]
    assert not (tmp_path / "out").exists()


def test_names_of_pictures_never_meet():
    used = set()
    stems = ["a", "a", "a_2", "A", "a"]
    names = [unused_name(stem, ".jpg", used) for stem in stems]
    assert len({name.casefold() for name in names}) == len(stems)
    assert names[0] == "a_detections.jpg"
