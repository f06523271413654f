"""What a stranger may have put into a folder: pipes, devices, links, names that lead out."""

import json
import os
import threading

import pytest
from script_runs import FAST, call, tree

from vision.command_line import run_script
from vision.datasets.image_files import read_image
from vision.datasets.image_headers import image_size
from vision.datasets.image_list import scan_images
from vision.datasets.sample import write_sample_dataset
from vision.download.coco_install import lock_folder
from vision.download.part_file import PartFile
from vision.engine.loggers import open_loggers
from vision.files.guarded import is_below, is_inside, own_only, read_regular, regular_only
from vision.runs.checkpoint import read_checkpoint
from vision.runs.run_folder import RunLock, read_config
from vision.validate.quarantine import invalid_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
SECONDS = 20  # far more than an answer takes; without one the test fails and does not hang


def answer_of(work, *arguments):
    """The error that `work` raises; a call that waits for ever is none."""
    errors = []

    def run():
        try:
            work(*arguments)
        except (OSError, ValueError) as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert errors, "it waits, or takes what it should refuse"
    return errors[0]


@pytest.mark.parametrize("read", [read_regular, read_image, image_size, read_checkpoint])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read):
    pipe = tmp_path / "photo.jpg"
    os.mkfifo(pipe)
    error = answer_of(read, pipe)
    assert "not a regular file" in str(error) and str(pipe) in str(error)


def test_a_device_is_refused_and_a_folder_is_a_folder(tmp_path):
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    assert "not a regular file" in str(answer_of(read_image, tmp_path / "zero.jpg"))
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent")


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == read_regular(tmp_path / "file") == b"content"
    with open(tmp_path / "new", "w", opener=own_only) as file:
        file.write("x")
    assert (tmp_path / "new").read_text() == "x"
    with open(tmp_path / "new", "a+", opener=regular_only) as file:
        file.write("y")
    assert (tmp_path / "new").read_text() == "xy"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("run.lock", RunLock),
        (".coco_downloader.lock", lambda folder: lock_folder(folder).__enter__()),
        ("a.zip.part", lambda folder: PartFile(folder / "a.zip", "http://host/a.zip")),
        ("tensorboard", lambda folder: open_loggers(("tensorboard",), folder, {}, first_epoch=1)),
    ],
)
def test_a_link_is_not_written_through(tmp_path, name, write):
    precious = tmp_path / "precious"
    if name == "tensorboard":
        precious.mkdir()
    else:
        precious.write_text("thesis")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).symlink_to(precious)
    error = answer_of(write, folder)
    assert name in str(error) and "link" in str(error)
    assert precious.read_text() == "thesis" if precious.is_file() else not list(precious.iterdir())


@pytest.mark.parametrize(
    "name", ["a.jpg", "folder/a.jpg", "a..b.jpg", "...", "./a.jpg", "ü/ä ö.jpg", "a\nb.jpg"]
)
def test_names_that_stay_inside(name):
    assert is_inside(name)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../a", "a/../../b", "/etc/passwd", "C:\\a.jpg", "C:a.jpg", "\\\\host\\share\\a",
     "a\\..\\..\\b", "\\a"],
)  # fmt: skip
def test_names_that_lead_out(name):
    assert not is_inside(name)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("own/a.jpg", True),
        ("again/a.jpg", True),  # a link to own
        ("train2017/a.jpg", True),  # the user's, on another disk
        ("train2017/b/a.jpg", True),
        ("train2017", True),  # the link itself lies in the folder
        ("train2017/out/a.jpg", False),  # out of the other disk
        ("album/a.jpg", False),
        ("own/images/a.jpg", False),  # not right in the folder
        ("train2017/../a.jpg", False),
    ],
)
def test_links_on_the_way_to_what_is_written(tmp_path, name, inside):
    root = tmp_path / "data"
    for folder in ("data/own", "disk/b", "beside"):
        (tmp_path / folder).mkdir(parents=True)
    for link, target in (
        ("data/again", "data/own"),
        ("data/train2017", "disk"),
        ("disk/out", "beside"),
        ("data/album", "beside"),
        ("data/own/images", "beside"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert is_below(root, name) is inside
    assert is_below(root, name, strict=True) is (inside and not name.startswith("train2017/"))


@pytest.fixture
def data(tmp_path):
    """A data set whose annotations name two files of the user's outside the image folder."""
    root = tmp_path / "data"
    write_sample_dataset(root, num_train=4, num_val=2)
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for number, name in ((901, "../notes.txt"), (902, "../../thesis.tex")):
        content["images"].append({"id": number, "file_name": name, "width": 9, "height": 9})
    path.write_text(json.dumps(content))
    (root / "notes.txt").write_text("my notes")
    (tmp_path / "thesis.tex").write_text("thesis")
    return root


def test_validation_moves_nothing_from_outside(data):
    before = tree(data.parent)
    done = call("validate_image_files", "--path", data / "train2017", "--workers=1")
    assert done.code == 1 and "name outside the folder: 2" in done.out
    assert tree(data.parent) == before


def test_restore_takes_and_puts_nothing_outside(data, tmp_path):
    images = data / "train2017"
    folder = invalid_folder(images)
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"bad")
    entry = {"reason": "", "size": 3, "digest": ""}
    moved = [
        {**entry, "file": "../../planted.txt", "moved_to": "bad.jpg"},
        {**entry, "file": "stolen.jpg", "moved_to": "../../thesis.tex"},
    ]
    (folder / "report.json").write_text(json.dumps({"moved": moved}))
    before = {name: content for name, content in tree(tmp_path).items() if "report" not in name}
    done = call("validate_image_files", "--path", images, "--restore")
    assert done.code == 1 and done.err.count("leads out of the folder") == 2
    after = {name: content for name, content in tree(tmp_path).items() if "report" not in name}
    assert after == before


def test_a_pipe_among_the_images_ends_a_run_with_a_line(tmp_path):
    root = tmp_path / "data"
    write_sample_dataset(root, num_train=4, num_val=2)
    photo = next((root / "train2017").iterdir())
    photo.unlink()
    os.mkfifo(photo)
    done = call("train_ssd", "--datasets", root, "--checkpoint-folder", tmp_path / "run", *FAST)
    assert done.code == 1 and len(done.errors) == 1
    assert photo.name in done.errors[0] and "not a regular file" in done.errors[0]


def test_folders_that_links_lead_to_twice_are_walked_once(tmp_path):
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(b"")
    (tmp_path / "b/up").symlink_to(tmp_path)
    (tmp_path / "a/again").symlink_to(tmp_path / "b")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a")  # a user's own link, to what is there too
    found = scan_images(tmp_path).images
    assert sorted(os.path.realpath(path) for path in found) == [
        str(tmp_path / "a/1.jpg"), str(tmp_path / "b/c/1.jpg")
    ]  # fmt: skip


def test_an_error_is_one_line_without_terminal_commands(capsys):
    def fail():
        raise ValueError("names of\x1b[31m two\nlines\u202e, \u00fc and \U0001f600")

    assert run_script(fail) == 1
    assert capsys.readouterr().err == (
        "error: names of\\x1b[31m two\\nlines\\u202e, \u00fc and \U0001f600\n"
    )


def test_metrics_of_an_older_run_are_kept(tmp_path):
    root, run = tmp_path / "data", tmp_path / "run"
    write_sample_dataset(root, num_train=4, num_val=2)
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n')
    done = call("train_ssd", "--datasets", root, "--checkpoint-folder", run, *FAST)
    assert done.code == 1 and "metrics.jsonl of an older run" in done.errors[0]
    assert tree(run) == {"metrics.jsonl": b'{"epoch": 1}\n'}


def test_a_config_nested_without_end_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_config(tmp_path)
