"""Network streams from a real RTSP server, which goes away and comes back."""

import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from conftest import ROOT

from vision.deploy import frames
from vision.deploy.frames import LiveStream, open_sources

SERVER = Path(__file__).with_name("rtsp_server.py")
PYTHON = shutil.which("python3", path="/usr/bin")


def has_server() -> bool:
    program = "import gi; gi.require_version('GstRtspServer', '1.0')"
    return (
        bool(PYTHON) and not subprocess.run([PYTHON, "-c", program], capture_output=True).returncode
    )


pytestmark = pytest.mark.skipif(not has_server(), reason="GStreamer's RTSP server is not installed")


def serve(port: int) -> subprocess.Popen:
    server = subprocess.Popen(
        [PYTHON, str(SERVER), str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout.readline() == b"ready\n"
    return server


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_newest_frame_and_a_server_that_comes_back(port, monkeypatch, caplog):
    monkeypatch.setattr(frames, "OPEN_SECONDS", 2.0)
    address = f"rtsp://127.0.0.1:{port}/stream"
    server = serve(port)
    try:
        (source,) = open_sources([address])
        pictures = iter(source)
        first = next(pictures)
        assert first.pixels.shape == (120, 160, 3) and first.pixels.max() > 200
        time.sleep(1.0)  # a slow detector
        second = next(pictures)
        assert second.number - first.number >= 10  # the ones in between are left out
        assert time.monotonic() - source._begin - second.seconds < 0.5
        server.kill()
        server.wait()
        with caplog.at_level(logging.WARNING):
            while "broke off" not in caplog.text:
                time.sleep(0.05)
            server = serve(port)
            while "back again" not in caplog.text:
                time.sleep(0.05)
            again = next(frame for frame in pictures if frame.number > second.number + 5)
        assert again.pixels.shape == (120, 160, 3)
        source.close()
        assert next(pictures, None) is None
    finally:
        server.kill()


def test_no_server_is_one_line(port):
    with pytest.raises(ValueError, match=f"^rtsp://127.0.0.1:{port}/stream: no stream there$"):
        LiveStream(f"rtsp://127.0.0.1:{port}/stream")


def test_ctrl_c_leaves_whole_files(port, tmp_path, onnx_file):
    server = serve(port)
    try:
        demo = subprocess.Popen(
            [
                sys.executable, str(ROOT / "run_ssd_live_demo.py"), 
                "--trained-model", str(onnx_file),
                "--output-dir", str(tmp_path), "--csv", str(tmp_path / "found.csv"), "--track",
                f"rtsp://127.0.0.1:{port}/stream",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        part = tmp_path / f".camera_127.0.0.1_{port}_stream_detections.mp4.part.mp4"
        while not part.exists():
            assert demo.poll() is None, demo.stderr.read()
            time.sleep(0.05)
        time.sleep(1.0)
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=30)
    finally:
        server.kill()
    assert (demo.returncode, err) == (0, "")
    assert not part.exists()
    video = cv2.VideoCapture(str(tmp_path / f"camera_127.0.0.1_{port}_stream_detections.mp4"))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    assert count >= 10 and video.read()[0]
    assert (tmp_path / "found.csv").read_text().startswith("source,frame,seconds,name")
