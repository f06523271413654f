"""coco_downloader.py as a user runs it, against a real server."""

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from coco_mirror import ZIPS, make_mirror
from fault_server import FaultServer

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "coco_downloader.py"


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    files = make_mirror(folder)
    with FaultServer(folder) as server:
        server.files = files
        yield server


def unpacked(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*/*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def start(server: FaultServer, root: Path, *options: str, prefix: str = "") -> subprocess.Popen:
    command = [sys.executable, str(ROOT / SCRIPT), "--path", str(root), "--base-url", server.url]
    if prefix:
        command = ["bash", "-c", f'{prefix}; exec "$@"', "bash", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *options], cwd=ROOT, **pipes)


def test_all_splits_and_a_second_run(server, tmp_path, run_script):
    options = ("--path", tmp_path / "coco", "--base-url", server.url + "/")
    done = run_script(SCRIPT, *options)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5
    warnings = done.stderr.splitlines()  # what the digests of COCO's own zips say
    assert len(warnings) == 5 and all("not COCO's own zip" in line for line in warnings)
    assert "train2017.zip: 6 files, all checked\n" in done.stdout
    assert unpacked(tmp_path / "coco") == server.files
    assert not list((tmp_path / "coco").glob("*.zip"))
    num_requests = len(server.requests)
    again = run_script(SCRIPT, *options)
    assert again.returncode == 0 and again.stdout.count("complete already") == 5
    assert len(server.requests) == num_requests


@pytest.mark.parametrize(
    ("splits", "names"),
    [
        ("val,annotations", {ZIPS[1], ZIPS[3]}),
        ("test", {ZIPS[2], ZIPS[4]}),
        ("train", {ZIPS[0]}),
    ],
)
def test_splits(server, tmp_path, run_script, splits, names):
    url = server.folder.as_uri()
    done = run_script(SCRIPT, "--path", tmp_path / "c", "--splits", splits, "--base-url", url)
    assert done.returncode == 0
    found = {
        name.removesuffix(".done.json") for name in os.listdir(tmp_path / "c") if "zip" in name
    }
    assert found == {name.rsplit("/", 1)[1] for name in names}


def test_failures_are_listed_with_the_command_that_continues(server, tmp_path, run_script):
    (server.folder / ZIPS[1]).rename(tmp_path / "val2017.zip")
    root = tmp_path / "my coco"
    options = ("--path", root, "--base-url", server.url, "--splits", "train,val")
    done = run_script(SCRIPT, *options)
    assert done.returncode == 1
    assert done.stdout == "train2017.zip: 6 files, all checked\n"
    _, error, remedy = done.stderr.splitlines()
    assert error.startswith(f"error: val2017.zip: {server.url}/{ZIPS[1]}: HTTP 404")
    assert remedy.startswith(f"to continue: python coco_downloader.py --path '{root}' --base-url")
    (tmp_path / "val2017.zip").rename(server.folder / ZIPS[1])
    assert run_script(SCRIPT, *options).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--splits", "train,valid"], "--splits: choose from train,val,test,annotations, not 'va"),
        (["--splits", ""], "--splits"),
        (["--workers", "0"], "--workers must be greater than 0"),
        (["--timeout", "nan"], "--timeout"),
        (["--retries", "-1"], "--retries"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_wrong_usage(tmp_path, run_script, options, message):
    done = run_script(SCRIPT, "--path", tmp_path / "coco", *options)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "coco").exists()


@pytest.mark.parametrize("text", [None, "no digest here\n"], ids=["absent", "malformed"])
def test_a_bad_checksum_file_is_one_line(server, tmp_path, run_script, text):
    sums = tmp_path / "sums"
    if text:
        sums.write_text(text)
    url = server.url
    done = run_script(SCRIPT, "--path", tmp_path / "c", "--base-url", url, "--checksums", sums)
    assert done.returncode == 1 and str(sums) in done.stderr and done.stderr.count("\n") == 1


def test_a_path_that_is_a_file_is_one_line(server, tmp_path, run_script):
    (tmp_path / "file").write_text("mine")
    done = run_script(SCRIPT, "--path", tmp_path / "file", "--base-url", server.url)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert (tmp_path / "file").read_text() == "mine"


def test_ctrl_c_leaves_what_the_next_run_continues(server, tmp_path):
    (server.folder / ZIPS[0]).write_bytes(os.urandom(3_000_000))  # long enough to interrupt
    root = tmp_path / "coco"
    server.rate = 1_000_000
    process = start(server, root, "--splits", "train")
    while not (root / "train2017.zip.part").exists() or (
        (root / "train2017.zip.part").stat().st_size < 300_000
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out == ""
    assert err.startswith("interrupted; to continue: python coco_downloader.py --path")
    [[begin, end]] = json.loads((root / "train2017.zip.part.json").read_bytes())["done"]
    assert begin == 0 and end >= 300_000
    server.rate = 0
    start(server, root, "--splits", "train", "--retries", "0").communicate(timeout=20)
    asked = [headers["Range"] for method, _, headers in server.requests if "Range" in headers]
    assert asked[1] == f"bytes={end}-2999999"


def test_two_at_once_in_one_folder(server, tmp_path):
    root = tmp_path / "coco"
    server.rate = 1000
    first = start(server, root, "--splits", "train")
    while not (root / "train2017.zip.part").exists():
        time.sleep(0.01)
    out, err = start(server, root, "--splits", "val").communicate(timeout=20)
    assert out == "" and err == f"error: {root}: another coco_downloader.py is at work there\n"
    first.kill()
    first.communicate()
    server.rate = 0
    process = start(server, root)  # a lock of a killed process is gone
    process.communicate(timeout=20)
    assert process.returncode == 0 and unpacked(root) == server.files


def test_a_disk_without_room_is_one_line_and_keeps_the_state(server, tmp_path):
    """A limit on the size of files makes writes fail as a full disk does."""
    root = tmp_path / "coco"
    size = (server.folder / ZIPS[0]).stat().st_size
    assert size > 10_000
    process = start(server, root, "--splits", "train", "--retries", "0", prefix="ulimit -f 8")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.splitlines()[0].startswith("error: train2017.zip: ") and "Traceback" not in err
    assert not (root / "train2017.zip").exists()
    process = start(server, root, "--splits", "train")
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_bars_on_a_terminal(server, tmp_path):
    """One bar for each archive, with size, speed and time left."""
    server.rate = 40_000
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    command = [sys.executable, SCRIPT, "--path", str(tmp_path / "coco"), "--base-url", server.url]
    process = subprocess.Popen(
        [*command, "--splits", "train,val"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=follower, close_fds=True,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # the terminal is gone with its last user
        pass
    assert process.wait(timeout=20) == 0
    for name in (b"train2017.zip", b"val2017.zip"):
        bar = (
            rb"%b fetch: +\d+%%\|.*?\| [\d.]+k?/[\d.]+k \[\d\d:\d\d<\d\d:\d\d, +[\d.]+k?B/s\]"
            % name
        )
        assert re.search(bar, shown), shown
