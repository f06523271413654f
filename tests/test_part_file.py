"""What is fetched so far: the record is true after a kill, and never believed when it is not."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_server import FaultServer

from vision.download.download import fetch
from vision.download.part_file import PartFile, RemoteFile

ROOT = Path(__file__).resolve().parent.parent
DATA = random.Random(0).randbytes(4_500_000)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server/f.zip").write_bytes(DATA)
    with FaultServer(tmp_path / "server") as server:
        yield server


def reopened(part: PartFile) -> PartFile:
    part.close()
    return PartFile(part.path, part.url)


def test_ranges_are_merged_and_survive(tmp_path):
    part = PartFile(tmp_path / "f.zip", "http://host/f.zip")
    part.restart(RemoteFile('"v0"', None, 100))
    assert part.missing() == [(0, 100)]
    assert part.write(60, b"x" * 20) == 20
    assert part.write(10, b"y" * 10) == 10
    assert part.write(15, b"y" * 10) == 5  # five of them were here
    part = reopened(part)
    assert part.remote == RemoteFile('"v0"', None, 100)
    assert part.missing() == [(0, 10), (25, 60), (80, 100)]
    assert part.num_done == 35 and not part.is_complete()
    with pytest.raises(OSError, match="80 bytes, 100 expected"):
        part.finish()
    part = PartFile(tmp_path / "f.zip", "http://host/f.zip")
    part.write(0, b"a" * 100)
    part.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["f.zip"]


def test_a_restart_forgets_bytes_and_version(tmp_path):
    part = PartFile(tmp_path / "f.zip", "http://host/f.zip")
    part.restart(RemoteFile('"v0"', None, 100))
    part.write(0, b"x" * 50)
    part.restart(RemoteFile('"v1"', None, 70))
    part = reopened(part)
    assert (part.remote.etag, part.num_done, part.missing()) == ('"v1"', 0, [(0, 70)])


def test_another_url_keeps_bytes_and_length_but_not_the_validators(tmp_path):
    part = PartFile(tmp_path / "f.zip", "http://host/f.zip")
    part.restart(RemoteFile('"v0"', "Sun, 13 Sep 2020 12:26:40 GMT", 100))
    part.write(0, b"x" * 50)
    part.close()
    part = PartFile(tmp_path / "f.zip", "http://mirror/f.zip")
    assert (part.remote, part.num_done) == (RemoteFile(length=100), 50)


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (RemoteFile('"a"'), RemoteFile('"a"'), False),
        (RemoteFile('"a"'), RemoteFile('"b"'), True),
        (RemoteFile('"a"', "date"), RemoteFile('"a"', "later"), False),
        (RemoteFile('"a"', "date"), RemoteFile(None, "later"), True),
        (RemoteFile('"a"', "date"), RemoteFile(None, "date"), False),
        (RemoteFile('"a"', None, 5), RemoteFile('"a"', None, 6), True),
        (RemoteFile('"a"', None, 5), RemoteFile(None, None, 5), None),
        (RemoteFile(), RemoteFile(), None),
    ],
)
def test_versions(one, other, differs):
    assert one.differs_from(other) is differs and other.differs_from(one) is differs


@pytest.mark.parametrize(
    "record",
    [None, "", "{", '{"done": [[0, 9999999]], "remote": {}}', '{"done": 3, "remote": {}}', "[]"],
    ids=["absent", "empty", "cut", "too long", "wrong type", "no object"],
)
def test_a_part_file_without_a_true_record_is_not_believed(server, tmp_path, record):
    (tmp_path / "f.zip.part").write_bytes(b"other bytes" * 1000)
    if record is not None:
        (tmp_path / "f.zip.part.json").write_text(record)
    fetch(server.url + "/f.zip", tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == DATA


@pytest.mark.parametrize("connections", [1, 3])
def test_kill_9_loses_little_and_claims_nothing_that_is_not_there(server, tmp_path, connections):
    program = (
        "import sys; from pathlib import Path\n"
        "from vision.download import download, part_file\n"
        "part_file.SECONDS_BETWEEN_RECORDS = 0.02\n"
        "download.fetch(sys.argv[1], Path(sys.argv[2]), connections=int(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", program, server.url + "/f.zip", str(tmp_path / "f.zip")]
    record_path = tmp_path / "f.zip.part.json"
    part_path = tmp_path / "f.zip.part"
    server.rate = 4_000_000 // connections
    done = []
    for _ in range(3):
        process = subprocess.Popen([*command, str(connections)], cwd=ROOT)
        fetched = sum(end - start for start, end in done)
        while sum(end - start for start, end in done) < fetched + 300_000:
            time.sleep(0.01)
            done = json.loads(record_path.read_bytes())["done"] if record_path.exists() else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = json.loads(record_path.read_bytes())["done"]
        here = part_path.read_bytes()
        assert all(here[start:end] == DATA[start:end] for start, end in done)
        assert all(0 <= start < end <= len(here) for start, end in done)
    num_requests = len(server.requests)
    server.rate = 0
    fetch(server.url + "/f.zip", tmp_path / "f.zip", connections=connections)
    assert (tmp_path / "f.zip").read_bytes() == DATA
    asked = [headers["Range"][6:].split("-") for _, _, headers in server.requests[num_requests:]]
    missing = len(DATA) - sum(end - start for start, end in done)
    assert sum(int(end) + 1 - int(start) for start, end in asked) == missing
