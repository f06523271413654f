"""Fetching from a server that fails: the right bytes, or a clear failure."""

import os
import random
import threading
import time
from pathlib import Path

import pytest
from fault_server import FaultServer

from vision.download.download import Stopped, fetch
from vision.download.http_answer import DownloadError

DATA = random.Random(0).randbytes(4_500_000)
OTHER = random.Random(1).randbytes(4_500_000)
PATH = "/zips/f.zip"
QUICK = {"timeout": 0.3, "retries": 4, "first_pause": 0.01}


@pytest.fixture
def server(tmp_path):
    file = tmp_path / "server" / PATH.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(DATA)
    with FaultServer(tmp_path / "server") as server:
        yield server


def get(server: FaultServer, folder: Path, **options) -> bytes:
    fetch(server.url + PATH, folder / "f.zip", **{**QUICK, **options})
    assert sorted(path.name for path in folder.glob("f.zip*")) == ["f.zip"]
    return (folder / "f.zip").read_bytes()


def ranges(server: FaultServer) -> list[str | None]:
    return [headers.get("Range") for method, _, headers in server.requests if method == "GET"]


FAULTS = [
    *("ok", "reset:1000000", "close:1000000", "stall:1000000", "drip:1000000", "refuse"),
    *("garbage", "status:500", "status:503", "status:429", "416", "whole", "redirect", "html"),
    *("gzip", "gzip-part", "chunked", "chunked-cut:200000", "no-length", "too-much:1000"),
    *("short-part:700000", "shifted", "reset:0", "close:0"),
]


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_at_the_start_and_after_some_bytes(server, tmp_path, fault, connections):
    server.faults = [fault, "ok", fault, fault]
    assert get(server, tmp_path, connections=connections) == DATA


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("fault", ["ok", "chunked", "no-length"])
def test_more_bytes_than_are_expected_do_not_fill_the_disk(server, tmp_path, fault, connections):
    server.faults = [fault] * 9
    limits = {**QUICK, "connections": connections, "most_bytes": len(DATA) - 1}
    with pytest.raises(DownloadError, match=r"f\.zip: more than 4,499,999 bytes"):
        fetch(server.url + PATH, tmp_path / "f.zip", **limits)
    assert sum(path.stat().st_size for path in tmp_path.glob("f.zip*")) < 1000
    server.faults = [fault]
    limits["most_bytes"] += 1
    fetch(server.url + PATH, tmp_path / "f.zip", **limits)
    assert (tmp_path / "f.zip").read_bytes() == DATA


@pytest.mark.parametrize("validators", ["etag", "weak", "date", "none"])
def test_resume_asks_only_for_the_rest(server, tmp_path, validators):
    server.validators = validators
    server.faults = ["close:1500000"]
    with pytest.raises(DownloadError, match=r"f\.zip: gave up after 0 retries: after 1500000 "):
        fetch(server.url + PATH, tmp_path / "f.zip", timeout=1, retries=0)
    assert get(server, tmp_path) == DATA
    assert ranges(server) == ["bytes=0-", "bytes=1500000-4499999"]
    date = "Sun, 13 Sep 2020 12:26:40 GMT"  # second 1,600,000,000; a weak tag must not be used
    expected = {"etag": '"v0"', "weak": date, "date": date, "none": None}
    assert server.requests[1][2].get("If-Range") == expected[validators]


@pytest.mark.parametrize("validators", ["etag", "weak", "date"])
@pytest.mark.parametrize("connections", [1, 3])
def test_a_file_that_changes_is_fetched_anew(server, tmp_path, validators, connections):
    server.validators = validators
    server.versions[PATH] = [OTHER]
    server.faults = ["close:300000", "change"]
    assert get(server, tmp_path, connections=connections) == OTHER


def test_a_file_that_grows_is_fetched_anew_even_without_validators(server, tmp_path):
    server.validators = "none"
    server.versions[PATH] = [OTHER + b"more"]
    server.faults = ["close:300000", "change"]
    assert get(server, tmp_path) == OTHER + b"more"


def test_a_file_that_never_stops_changing_is_a_failure(server, tmp_path):
    server.versions[PATH] = [DATA[:-n] for n in range(1, 20)]
    server.faults = ["reset:500000", "change"] * 20
    with pytest.raises(DownloadError, match="changed on the server"):
        fetch(server.url + PATH, tmp_path / "f.zip", **QUICK)
    assert not (tmp_path / "f.zip").exists()


def test_a_server_without_ranges_and_a_bad_line_still_ends(server, tmp_path):
    server.ranges = False
    server.faults = ["close:1000000", "reset:2000000", "close:3000000"]
    assert get(server, tmp_path, connections=4) == DATA


def test_a_server_without_ranges_is_read_once_by_four_connections(server, tmp_path):
    server.ranges = False
    assert get(server, tmp_path, connections=4) == DATA
    assert len(server.requests) == 1


def test_connections_share_the_file_and_no_byte_is_asked_twice(server, tmp_path):
    assert get(server, tmp_path, connections=4) == DATA
    starts = sorted(int(text[6:].split("-")[0]) for text in ranges(server))
    assert len(starts) >= 4 and len(set(starts)) == len(starts)
    ends = sorted(int(text.split("-")[1]) + 1 for text in ranges(server))
    assert starts[1:] == ends[:-1] and ends[-1] == len(DATA)


def test_one_bad_connection_does_not_stop_the_others(server, tmp_path):
    # more connections than the server wants: the surplus fails, the file comes all the same
    server.faults = ["ok", "ok", "status:503", "status:503", "ok"]
    assert get(server, tmp_path, connections=4, retries=0) == DATA


@pytest.mark.parametrize("when", ["1", "date"])
def test_retry_after_is_obeyed(server, tmp_path, when):
    server.faults = [f"retry-after:{when}"]
    began = time.monotonic()
    assert get(server, tmp_path) == DATA
    assert time.monotonic() - began >= 1.0  # a date has whole seconds, so `date` is two ahead
    assert len(server.requests) == 2


def test_retry_after_tomorrow_is_a_failure(server, tmp_path):
    server.faults = ["retry-after:86400"]
    with pytest.raises(DownloadError, match=r"come back in 24\.0 hours"):
        fetch(server.url + PATH, tmp_path / "f.zip", **QUICK)


@pytest.mark.parametrize(
    ("fault", "message", "num_requests"),
    [("status:404", "HTTP 404", 1), ("status:403", "HTTP 403", 1), ("loop", "redirects", None)],
)
def test_what_another_try_cannot_help_fails_at_once(server, tmp_path, fault, message, num_requests):
    server.faults = [fault]
    with pytest.raises(DownloadError, match=message):
        fetch(server.url + PATH, tmp_path / "f.zip", **QUICK)
    assert num_requests in (None, len(server.requests))


def test_a_dead_server_is_given_up_after_growing_pauses(server, tmp_path):
    server.faults = ["refuse"] * 9
    began = time.monotonic()
    with pytest.raises(DownloadError, match="gave up after 4 retries"):
        fetch(server.url + PATH, tmp_path / "f.zip", **QUICK)
    assert len(server.requests) == 5
    assert time.monotonic() - began >= 0.01 * (1 + 2 + 4 + 8)


def test_progress_between_failures_renews_the_patience(server, tmp_path):
    server.faults = ["reset:200000", "refuse"] * 15  # 30 failures, two in a row without a gain
    assert get(server, tmp_path, retries=3) == DATA


def test_a_length_other_than_the_known_one_keeps_what_is_here(server, tmp_path):
    server.faults = ["close:2000000", "other-length:5", "html", "416:17", "ok"]
    assert get(server, tmp_path, expected_length=len(DATA)) == DATA
    assert ranges(server)[-1] == "bytes=2000000-4499999"
    with pytest.raises(DownloadError, match="4500000 bytes, the file has 17"):
        fetch(server.url + PATH, tmp_path / "g.zip", **QUICK, expected_length=17)


def test_416_for_a_shorter_file_means_another_version(server, tmp_path):
    server.versions[PATH] = [OTHER[:1_000_000]]
    server.faults = ["close:2000000", "416:1000000", "change"]
    assert get(server, tmp_path) == OTHER[:1_000_000]
    assert ranges(server)[1:] == ["bytes=2000000-4499999", "bytes=0-"]


def test_another_mirror_goes_on_where_the_first_stopped(server, tmp_path):
    server.faults = ["close:2000000"]
    with pytest.raises(DownloadError):
        fetch(server.url + PATH, tmp_path / "f.zip", timeout=1, retries=0)
    fetch(server.url + "/moved" + PATH, tmp_path / "f.zip", **QUICK)
    assert (tmp_path / "f.zip").read_bytes() == DATA
    assert ranges(server)[-1] == "bytes=2000000-4499999"


def test_a_local_mirror(tmp_path):
    (tmp_path / "mirror.zip").write_bytes(DATA)
    url = (tmp_path / "mirror.zip").as_uri()
    for connections in (1, 3):
        fetch(url, tmp_path / f"{connections}.zip", connections=connections)
        assert (tmp_path / f"{connections}.zip").read_bytes() == DATA
    with pytest.raises(OSError, match=r"No such file .*mirror\.zipx"):
        fetch(url + "x", tmp_path / "f.zip")
    with pytest.raises(DownloadError, match="it has 4500000 bytes, the file has 17"):
        fetch(url, tmp_path / "f.zip", expected_length=17)


def test_a_copy_from_a_local_mirror_goes_on(tmp_path):
    mirror, stop = tmp_path / "mirror.zip", threading.Event()
    mirror.write_bytes(DATA)

    def stop_early(done, length):
        if done > 2_000_000:
            stop.set()

    with pytest.raises(Stopped):
        fetch(mirror.as_uri(), tmp_path / "f.zip", progress=stop_early, stop=stop)
    done = []
    fetch(mirror.as_uri(), tmp_path / "f.zip", progress=lambda here, length: done.append(here))
    assert done == [3_145_728, 4_194_304, 4_500_000]  # the first two megabytes were there
    assert (tmp_path / "f.zip").read_bytes() == DATA


def test_a_local_mirror_that_changes_is_copied_anew(tmp_path):
    mirror, stop = tmp_path / "mirror.zip", threading.Event()
    mirror.write_bytes(DATA)
    with pytest.raises(Stopped):
        fetch(mirror.as_uri(), tmp_path / "f.zip", progress=lambda *_: stop.set(), stop=stop)
    mirror.write_bytes(OTHER)
    os.utime(mirror, (1, 1))
    fetch(mirror.as_uri(), tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == OTHER


def test_a_redirect_cannot_reach_local_files(server, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    server.faults = ["redirect"]
    server.redirect_to = (tmp_path / "secret").as_uri()
    with pytest.raises(DownloadError):
        fetch(server.url + PATH, tmp_path / "f.zip", **QUICK)


def test_stop_ends_soon_and_keeps_the_state(server, tmp_path):
    server.faults = ["stall:1000000"]
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        fetch(server.url + PATH, tmp_path / "f.zip", timeout=30, stop=stop)
    assert time.monotonic() - began < 5
    assert get(server, tmp_path) == DATA
    assert ranges(server)[-1] == "bytes=1000000-4499999"
