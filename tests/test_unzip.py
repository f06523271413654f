"""Unpacking: hostile archives are refused by name, interrupted work goes on, no half files."""

import errno
import io
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from vision.download.download import Stopped
from vision.download.unzip import (
    DamagedArchive,
    Member,
    UnsafeArchive,
    check_contents,
    extract,
    read_members,
)

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "train2017/000000000009.jpg": random.Random(0).randbytes(70_000),
    "train2017/000000000025.jpg": random.Random(1).randbytes(1_500_000),
    "annotations/instances_train2017.json": b'{"images": []}' * 5000,
    "annotations/empty.json": b"",
}


def make_zip(path: Path, files: dict[str, bytes], *, stored: bool = False) -> Path:
    method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def on_disk(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize("stored", [True, False])
def test_everything_is_unpacked_and_a_second_run_writes_nothing(tmp_path, root, stored):
    zip_path = make_zip(tmp_path / "a.zip", FILES, stored=stored)
    seen = []
    members = extract(zip_path, root, progress=lambda done, total: seen.append((done, total)))
    assert on_disk(root) == FILES
    assert {member.name: member.size for member in members} == {n: len(d) for n, d in FILES.items()}
    assert seen[-1] == (1_640_000, 1_640_000)
    inodes = {path: path.stat().st_ino for path in root.rglob("*")}
    extract(zip_path, root)
    assert {path: path.stat().st_ino for path in root.rglob("*")} == inodes


@pytest.mark.parametrize("stored", [True, False])
def test_any_wrong_byte_is_found_and_leaves_no_wrong_file(tmp_path, root, stored):
    """200 seeded places in archive and directory: refused, or unpacked right all the same."""
    zip_path = make_zip(tmp_path / "a.zip", FILES, stored=stored)
    good = zip_path.read_bytes()
    directory = good.index(b"PK\x01\x02")
    generator = random.Random(0)
    num_refused = 0
    for number in range(200):
        place = generator.randrange(directory if number % 2 else 0, len(good))
        data = bytearray(good)
        data[place] ^= 1 << generator.randrange(8)
        zip_path.write_bytes(data)
        target = root / str(number)
        try:
            extract(zip_path, target)
        except (DamagedArchive, UnsafeArchive):
            num_refused += 1
            with pytest.raises((DamagedArchive, UnsafeArchive)):
                read_members(zip_path)
                check_contents(zip_path)
        wrong = {name for name, data in on_disk(target).items() if FILES.get(name) != data}
        assert all(name not in FILES for name in wrong)  # a changed name is all that can pass
    assert num_refused > 100


@pytest.mark.parametrize("num_bytes", [0, 10, 1000, -1, -50])
def test_a_cut_archive_is_damaged(tmp_path, root, num_bytes):
    zip_path = make_zip(tmp_path / "a.zip", FILES)
    zip_path.write_bytes(zip_path.read_bytes()[:num_bytes])
    with pytest.raises(DamagedArchive, match=r"a\.zip"):
        extract(zip_path, root)


def test_a_zip_without_files_and_a_file_that_is_no_zip_are_damaged(tmp_path, root):
    for data in (b"<html>not found</html>" * 100, make_zip(tmp_path / "e.zip", {}).read_bytes()):
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(DamagedArchive):
            extract(tmp_path / "a.zip", root)


def test_what_is_there_is_judged_by_size_and_content(tmp_path, root):
    zip_path = make_zip(tmp_path / "a.zip", FILES)
    extract(zip_path, root)
    names = list(FILES)
    cut, wrong = root / names[0], root / names[1]
    cut.write_bytes(FILES[names[0]][:-1])
    wrong.write_bytes(bytes(len(FILES[names[1]])))  # as a power cut leaves it: length, no bytes
    (root / names[3]).unlink()
    kept = (root / names[2]).stat().st_ino
    extract(zip_path, root)
    assert on_disk(root) == FILES
    assert (root / names[2]).stat().st_ino == kept


def test_files_that_a_later_tool_moved_are_left_where_they_are(tmp_path, root):
    zip_path = make_zip(tmp_path / "a.zip", FILES)
    extract(zip_path, root)
    path = root / "annotations/instances_train2017.json"
    path.rename(path.with_suffix(".original.json"))
    path.write_bytes(b"fixed")
    extract(zip_path, root, other_places=lambda target: [target.with_suffix(".original.json")])
    assert path.read_bytes() == b"fixed"


def test_stop_between_members_and_going_on(tmp_path, root):
    zip_path = make_zip(tmp_path / "a.zip", FILES)
    stop = threading.Event()
    with pytest.raises(Stopped):
        extract(zip_path, root, stop=stop, progress=lambda done, total: stop.set())
    assert on_disk(root) == dict(list(FILES.items())[:1])
    extract(zip_path, root)
    assert on_disk(root) == FILES


def test_kill_9_leaves_no_half_file_under_its_name(tmp_path, root):
    files = {f"train2017/{i:012}.jpg": random.Random(i).randbytes(60_000) for i in range(1500)}
    zip_path = make_zip(tmp_path / "a.zip", files, stored=True)
    program = (
        "import sys; from pathlib import Path; from vision.download.unzip import extract\n"
        "extract(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    for wanted in (100, 500, 900):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(zip_path), str(root)], cwd=ROOT
        )
        while process.poll() is None and sum(1 for _ in root.rglob("*.jpg")) < wanted:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name, data in on_disk(root).items():
            assert files.get(name, data) == data, name
            assert name in files or name.endswith(".unpacking")
    extract(zip_path, root)
    assert on_disk(root) == files


def test_a_full_disk_is_an_oserror_and_leaves_no_piece(tmp_path, root):
    """A limit on the size of files stands in for a full disk: write fails in the same place."""
    zip_path = make_zip(tmp_path / "a.zip", FILES, stored=True)
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from vision.download.unzip import extract\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try:\n    extract(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    command = [sys.executable, "-c", program, str(zip_path), str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG)]
    assert on_disk(root) == dict(list(FILES.items())[:1])


def test_an_archive_over_4_gb_and_its_members_are_read(tmp_path):
    """Zip64 as in train2017.zip, sparse on disk: a member that begins beyond 4 GB."""
    zip_path = tmp_path / "big.zip"
    with open(zip_path, "wb") as file:
        file.seek(5_000_000_000)
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("train2017/a.jpg", b"jpeg")
        file.write(inner.getvalue())
    with zipfile.ZipFile(zip_path, "a") as archive:
        archive.writestr("train2017/b.jpg", b"more")
    assert read_members(zip_path)[1] == Member("train2017/b.jpg", 4, zlib.crc32(b"more"))
    extract(zip_path, tmp_path / "root")
    assert on_disk(tmp_path / "root") == {"train2017/a.jpg": b"jpeg", "train2017/b.jpg": b"more"}
