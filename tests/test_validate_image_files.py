"""The validator: what it finds, what it moves and moves back, and that it changes nothing else."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_jpeg import KINDS, TRAILERS, picture

from vision.validate.image_check import ImageCheck, check_image, check_images

SCRIPT = "validate_image_files.py"


def save(path: Path, *, width: int = 64, height: int = 48, **options) -> Path:
    """A noisy image: it does not compress, so that cutting its end off is a cut in its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def bomb_png(width: int, height: int) -> bytes:
    """A black 1-bit PNG of a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*item) for item in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def make_bad_files(folder: Path) -> dict[str, str]:
    """One file of each unreadable kind; {name: kind}."""
    whole = save(folder / "whole.jpg").read_bytes()
    png = save(folder / "whole.png").read_bytes()
    contents = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"<html>404 not found</html>", "not an image"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut_by_one.jpg": (whole[:-1], "truncated"),
        "cut header.JPG": (whole[:10], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "no_end.png": (png[:-12], "truncated"),
        "flipped.png": (png[:500] + bytes(50) + png[550:], "unreadable"),
        "bomb.png": (bomb_png(20000, 20000), "decompression bomb"),
        "sub/cut.bmp": (save(folder / "whole.bmp").read_bytes()[:-100], "truncated"),
        "cut.webp": (save(folder / "whole.webp").read_bytes()[:-100], "truncated"),
    }
    for name, (content, _) in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return {name: kind for name, (_, kind) in contents.items()}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_files_move_and_come_back(tmp_path, run_script, workers):
    folder, invalid = tmp_path / "images", tmp_path / "images_invalid"
    kinds = make_bad_files(folder)
    (folder / "notes.txt").write_text("not looked at")
    before = snapshot(folder)

    done = run_script(SCRIPT, "--path", folder, "--workers", workers)
    assert done.returncode == 1, done.stderr
    for name in kinds:
        assert not (folder / name).exists() and (invalid / name).is_file()
    kept = {name: item for name, item in before.items() if name not in kinds}
    assert snapshot(folder) == kept
    moved = json.loads((invalid / "report.json").read_text())["moved"]
    assert {item["file"]: item["reason"].split(": ")[0] for item in moved} == kinds
    for item in moved:
        content = before[item["file"]][0]
        assert item["size"] == len(content)
        assert item["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert "the disk or the memory may be at fault" in done.stdout

    assert run_script(SCRIPT, "--path", folder, "--workers", workers).returncode == 0
    restored = run_script(SCRIPT, "--path", folder, "--restore")
    assert restored.returncode == 0, restored.stderr
    assert snapshot(folder) == before
    assert not (invalid / "report.json").exists()


def test_a_very_large_sound_photo_is_reported_and_stays(tmp_path, run_script):
    """190 million pixels: training reads them, scikit-image does not."""
    path = tmp_path / "images/big.jpg"
    path.parent.mkdir()
    Image.new("L", (15000, 12700), 90).save(path, quality=60)
    done = run_script(SCRIPT, "--path", tmp_path / "images", "--workers", 1)
    assert done.returncode == 1 and "very large: 1" in done.stdout
    assert f"{path}: 15000x12700 pixels: sound for training" in done.stderr
    assert path.is_file() and not (tmp_path / "images_invalid").exists()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert check_image(str(path)).kind == "truncated"
    path.write_bytes(bomb_png(40000, 40000) + bytes(2_000_000))
    assert check_image(str(path)).kind == "too large"


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_with_anything_behind_it_is_sound(tmp_path, kind, trailer):
    (tmp_path / "a.jpg").write_bytes(picture(kind) + TRAILERS[trailer])
    assert check_image(str(tmp_path / "a.jpg")).kind is None
    (tmp_path / "a.jpg").write_bytes(picture(kind)[:-300] + TRAILERS["a second picture"])
    assert check_image(str(tmp_path / "a.jpg")).kind in ("truncated", "unreadable")


def test_a_tiff_that_training_does_not_read_stays(tmp_path, run_script):
    path = tmp_path / "images/a.tif"
    path.parent.mkdir()
    Image.fromarray(np.ones((4, 5), np.float32)).save(path)
    (tmp_path / "images/b.heic").touch()
    done = run_script(SCRIPT, "--path", tmp_path / "images")
    assert done.returncode == 1 and "not for training: 1" in done.stdout
    assert "8 bits" in done.stderr and "b.heic: passed over" in done.stderr
    assert path.is_file() and not (tmp_path / "images_invalid").exists()


def test_a_pointer_to_an_image_stays(tmp_path, run_script):
    """Git LFS puts the image in its place; if it were moved, it never would."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "images/a.jpg"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 12345\n")
    done = run_script(SCRIPT, "--path", tmp_path / "images")
    assert done.returncode == 1 and "not fetched: 1" in done.stdout and "lfs pull" in done.stderr
    assert path.is_file() and not (tmp_path / "images_invalid").exists()


def test_sound_images_of_every_kind_are_clean(tmp_path, run_script):
    save(tmp_path / "a.jpg")
    save(tmp_path / "progressive.JPEG", progressive=True)
    (tmp_path / "trailing.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"trailer")
    for mode in ("L", "LA", "P", "1", "RGBA", "I;16"):
        Image.new("L", (9, 7)).convert(mode if mode != "I;16" else "I").convert(mode).save(
            tmp_path / f"{mode[0]}{len(mode)}.png"
        )
    Image.new("CMYK", (9, 7)).save(tmp_path / "cmyk.jpg")
    save(tmp_path / "scan.TIF")
    save(tmp_path / "lzw.tiff", compression="tiff_lzw")
    save(tmp_path / "old.jfif", format="JPEG")
    done = run_script(SCRIPT, "--path", tmp_path, "--report", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["num_files"] == 13
    assert not Path(f"{tmp_path}_invalid").exists()


def test_dry_run_only_reports(tmp_path, run_script):
    folder = tmp_path / "images"
    kinds = make_bad_files(folder)
    before = snapshot(folder)
    report = tmp_path / "report.json"
    done = run_script(SCRIPT, "--path", folder, "--dry-run", "--report", report)
    assert done.returncode == 1 and "nothing was moved" in done.stdout
    assert snapshot(folder) == before and sorted(os.listdir(tmp_path)) == ["images", "report.json"]
    content = json.loads(report.read_text())
    assert {item["file"] for item in content["unreadable"]} == set(kinds)
    assert content["findings"]["truncated"]["count"] == 7


def test_a_file_that_is_there_again_is_neither_replaced_nor_lost(tmp_path, run_script):
    folder, invalid = tmp_path / "images", tmp_path / "images_invalid"
    save(folder / "b.jpg")
    for content in (b"first", b"second"):
        (folder / "a.jpg").write_bytes(content)
        assert run_script(SCRIPT, "--path", folder).returncode == 1
    assert (invalid / "a.jpg").read_bytes() == b"first"
    assert (invalid / "a.1.jpg").read_bytes() == b"second"
    good = save(folder / "a.jpg").read_bytes()
    done = run_script(SCRIPT, "--path", folder, "--restore")
    assert done.returncode == 1 and "exists again" in done.stderr
    assert (folder / "a.jpg").read_bytes() == good
    assert sorted(os.listdir(invalid)) == ["a.1.jpg", "a.jpg", "report.json"]


def test_moves_that_were_interrupted_are_done_by_the_next_run(tmp_path, run_script):
    """The report is written before the files move: it may name one that never did."""
    folder, invalid = tmp_path / "images", tmp_path / "images_invalid"
    save(folder / "b.jpg")
    (folder / "a.jpg").touch()
    assert run_script(SCRIPT, "--path", folder).returncode == 1
    (invalid / "a.jpg").rename(folder / "a.jpg")
    assert run_script(SCRIPT, "--path", folder).returncode == 1
    assert sorted(os.listdir(invalid)) == ["a.jpg", "report.json"]
    assert len(json.loads((invalid / "report.json").read_text())["moved"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--path", "{}/nowhere"], "no such folder"),
        (["--path", "{}"], "no image files"),
        (["--path", "{}", "--restore"], "nothing to restore"),
    ],
)
def test_failures_are_one_line(tmp_path, run_script, arguments, words):
    done = run_script(SCRIPT, *(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ") and words in done.stderr


def test_wrong_usage(tmp_path, run_script):
    assert run_script(SCRIPT).returncode == 2
    assert run_script(SCRIPT, "--path", tmp_path, "--workers", 0).returncode == 2


def test_pipes_and_links_to_nothing_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing")
    assert check_image(str(tmp_path / "pipe.jpg")).kind == "not a file"
    assert check_image(str(tmp_path / "link.jpg")).kind == "not accessible"


def die_at_some_files(file: str) -> ImageCheck:
    """Stands for a decoder that crashes."""
    if "kills" in os.path.basename(file):
        os.kill(os.getpid(), signal.SIGKILL)
    return check_image(file)


def test_a_file_that_kills_its_process_is_found_and_the_rest_checked(tmp_path):
    files = []
    for number in range(150):
        name = f"{number:03d}{'_kills' if number in (3, 40, 41) else ''}.png"
        Image.new("L", (4, 4)).save(tmp_path / name)
        files.append(str(tmp_path / name))
    checks = list(check_images(files, workers=2, check=die_at_some_files))
    assert sorted(check.file for check in checks) == files
    assert {check.file for check in checks if check.kind is not None} == {
        file for file in files if "kills" in os.path.basename(file)
    }
    assert {check.kind for check in checks} == {None, "kills the decoder"}


def _group_size(group: int) -> int:
    groups = subprocess.run(["ps", "-A", "-o", "pgid="], capture_output=True, text=True, check=True)
    return groups.stdout.split().count(str(group))


def test_ctrl_c_ends_all_processes_and_moves_nothing(tmp_path):
    folder = tmp_path / "images"
    (folder / "a.jpg").parent.mkdir()
    (folder / "a.jpg").touch()
    save(folder / "large.png", width=1500, height=1500)
    for number in range(400):
        os.link(folder / "large.png", folder / f"{number}.png")
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(
        [sys.executable, str(root / SCRIPT), "--path", str(folder), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while _group_size(process.pid) < 3:  # until the two workers decode
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    assert (folder / "a.jpg").exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_real_photos_are_clean(run_script, shared):
    done = run_script(SCRIPT, "--path", shared / "data" / "coco-mini" / "val2017", "--dry-run")
    assert done.returncode == 0 and "151 images decoded, 0 unreadable" in done.stdout
