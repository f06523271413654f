"""Standard output and error that are closed, full, or shown names with terminal commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_runs import FAST, call

from vision.command_line import MOST_LETTERS, run_script
from vision.datasets.sample import write_sample_dataset

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import logging, pathlib, sys
from vision.command_line import run_script

def work():
    {work}

raise SystemExit(run_script(work))
"""
# What a script does whose results are files, and that prints more than a pipe's buffer holds.
TALKS = (
    "[print('x' * 99) for _ in range(9999)]; logging.warning('half'); "
    "print('z', file=sys.stderr); print('last'); pathlib.Path('result').touch()"
)


def start(work: str, folder: Path, redirection: str) -> subprocess.CompletedProcess:
    """Run a program in a shell, as `program REDIRECTION`."""
    command = [sys.executable, "-c", PROGRAM.format(work=work)]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirection", ["| true", "| head -n 1 >first", ">&-", "2>&-", ">&- 2>&-"])
def test_the_work_goes_on_without_a_reader(tmp_path, monkeypatch, redirection, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = start(TALKS, tmp_path, f'{redirection}; echo "$?" >code')
    assert (tmp_path / "result").exists()
    assert "Error" not in done.stderr and "Exception" not in done.stderr
    if "|" not in redirection:
        assert (tmp_path / "code").read_text() == "0\n"


def test_what_an_encoding_lacks_is_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = start("print('caf\u00e9 \u732b')", tmp_path, "")
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\u732b\n"), done


def test_a_finished_script_says_0_though_its_reader_has_gone(tmp_path):
    read, write = os.pipe()
    os.close(read)
    for options in ([], ["-u"]):
        command = [sys.executable, *options, "-c", PROGRAM.format(work="print('result')")]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=env, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
    os.close(write)


def test_what_is_written_for_the_reader_alone_ends_with_it(tmp_path):
    endless = "[print('frame', flush=True) for _ in iter(int, 1)]"
    done = start(endless, tmp_path, "2>errors | head -n 1")
    assert done.stdout == "frame\n" and (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path, closed):
    """Libraries in C print to descriptor 2, whatever is open there."""
    done = start(
        "pathlib.Path('number').write_text(str(open('result', 'w').fileno()))", tmp_path, closed
    )
    assert done.returncode == 0 and int((tmp_path / "number").read_text()) > 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_results_that_do_not_fit_on_the_disk_are_an_error(tmp_path):
    for work in ("print('x')", "print('x' * 99999)"):
        done = start(work, tmp_path, ">/dev/full")
        assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")
    done = start("print('x'); logging.warning('lost')", tmp_path, "2>/dev/full")
    assert (done.returncode, done.stdout) == (0, "x\n")


def recurse() -> None:
    recurse()


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        (recurse, "error: one of the files that are read is nested too deeply"),
        (lambda: float(10**400), "error: a number is too large to compute with (int too large"),
        (lambda: bytearray(1 << 62), "error: the memory is full"),
        (lambda: Path("\0").read_bytes(), "error: embedded null byte"),
        (lambda: "\ud800".encode(), "error: 'utf-8' codec can't encode character '\\ud800'"),
    ],
    ids=["recursion", "overflow", "memory", "nul", "surrogate"],
)
def test_what_a_script_may_raise_is_one_line(capsys, fail, line):
    assert run_script(fail) == 1
    err = capsys.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 // 0)
    assert not type(sys.stdout).__module__.startswith("vision")


def test_a_line_that_no_one_would_read_is_cut_and_says_so(capsys):
    def fail():
        raise ValueError("a" * 10_000_000 + "the end")

    assert run_script(fail) == 1
    err = capsys.readouterr().err
    assert len(err) < MOST_LETTERS + 50 and "[9,996,014 letters]" in err
    assert err.endswith("athe end\n")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A data set whose classes have terminal commands and a line break in their names."""
    root = tmp_path_factory.mktemp("hostile")
    write_sample_dataset(root, num_train=4, num_val=2)
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = "cat\x1b]0;owned\x07\x1b[2J"
        content["categories"][1]["name"] = "dog\nerror: none"
        path.write_text(json.dumps(content))
    return root


def test_names_of_classes_reach_no_terminal_as_they_are(hostile, tmp_path):
    run = tmp_path / "run"
    recipe = [item for item in FAST if item != "--no-report"]
    trained = call("train_ssd", "--datasets", hostile, "--checkpoint-folder", run, *recipe)
    assert trained.code == 0
    names = json.loads((run / "config.json").read_text())["classes"]
    assert names[1]["name"] == "dog error: none"
    labels = (run / "labels.txt").read_text().splitlines()
    assert labels[:3] == ["BACKGROUND", "cat\\x1b]0;owned\\x07\\x1b[2J", "dog error: none"]
    assert len(labels) == len(names) + 1
    evaluated = call(
        "eval_ssd", "--trained-model", run, "--dataset", hostile, "--workers=0", "--batch-size=2"
    )
    assert evaluated.code == 0 and "dog error: none" in evaluated.out
    for text in (trained.out, trained.err, evaluated.out, evaluated.err):
        assert not any(ord(letter) < 32 and letter not in "\n\r\t" for letter in text)


def test_nested_annotations_are_one_line_for_each_script(hostile, tmp_path):
    root = tmp_path / "data"
    write_sample_dataset(root, num_train=4, num_val=2)
    path = root / "annotations/instances_train2017.json"
    path.write_text('{"info":' + "[" * 100_000 + "]" * 100_000 + "," + path.read_text()[1:])
    for script, *arguments in (
        ("train_ssd", "--datasets", root, "--checkpoint-folder", tmp_path / "run", *FAST),
        ("fix_coco_annotations", "--path", root),
        ("validate_image_files", "--path", root / "train2017", "--workers=1"),
    ):
        done = call(script, *arguments)
        assert done.code == 1 and len(done.errors) == 1, (script, done.err)
        assert "nested too deeply" in done.errors[0]
