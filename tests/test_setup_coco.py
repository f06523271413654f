"""./setup_coco whole, on a mirror served from a local folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from coco_mirror import ZIPS, make_mirror
from fault_server import FaultServer

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train2017", "val2017", "test2017")


@pytest.fixture
def server(tmp_path):
    files = make_mirror(tmp_path / "server")
    with FaultServer(tmp_path / "server") as server:
        server.files = files
        yield server


def environment(**changes: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX")
    }
    return {**kept, **changes}


def run_setup(*options, script: Path = ROOT / "setup_coco", env: dict[str, str] | None = None):
    env = env or environment(PYTHON=sys.executable)
    command = [str(script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd="/")


def category_ids(path: Path) -> tuple[list[int], set[int]]:
    content = json.loads(path.read_bytes())
    return (
        [category["id"] for category in content["categories"]],
        {annotation["category_id"] for annotation in content["annotations"]},
    )


def check_all(root: Path, files: dict[str, bytes]) -> None:
    """Images as in the archives, annotations fixed, originals kept, nothing left over."""
    for name, data in files.items():
        path = root / name
        if "instances" in name:
            assert category_ids(path) == ([0, 1, 2], {0, 1, 2})
            path = path.with_suffix(".original.json")
        assert path.read_bytes() == data
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    assert folders == ["annotations", "test2017", "train2017", "val2017"]
    assert {path.suffix for path in root.rglob("*/*")} == {".jpg", ".json"}
    assert not [path for path in root.iterdir() if path.suffix in (".zip", ".part")]


def test_download_validate_fix_and_again(server, tmp_path):
    root = tmp_path / "my coco"
    done = run_setup("--path", root, "--base-url", server.url)
    assert done.returncode == 0, done.stderr
    check_all(root, server.files)
    said = [line for line in done.stderr.splitlines() if line.startswith("setup_coco: ")]
    assert [line[12:15] for line in said] == ["1/3", "2/3", "2/3", "2/3", "3/3", "don"]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*/*")}
    num_requests = len(server.requests)
    again = run_setup(f"--path={root}", f"--base-url={server.url}")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*/*")} == before
    assert len(server.requests) == num_requests


def test_options_are_passed_on(server, tmp_path):
    root = tmp_path / "coco"
    options = ("--base-url", server.folder.as_uri(), "--keep-zips", "--workers", "1")
    done = run_setup("--splits", "val,annotations", "--path", root, *options)
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in root.glob("*.zip")}
    assert kept == {"val2017.zip", "annotations_trainval2017.zip"}
    assert "train2017" not in done.stderr and not (root / "train2017").exists()
    assert category_ids(root / "annotations/instances_val2017.json")[0] == [0, 1, 2]


def test_a_failed_download_ends_it_and_the_next_run_goes_on(server, tmp_path):
    hidden = tmp_path / "hidden.zip"
    (server.folder / ZIPS[2]).rename(hidden)
    done = run_setup("--path", tmp_path / "coco", "--base-url", server.url)
    assert done.returncode == 1
    assert "error: test2017.zip: " in done.stderr and "2/3" not in done.stderr
    hidden.rename(server.folder / ZIPS[2])
    done = run_setup("--path", tmp_path / "coco", "--base-url", server.url)
    assert done.returncode == 0, done.stderr
    check_all(tmp_path / "coco", server.files)


def test_an_unreadable_image_is_told_and_does_not_stop_the_fix(server, tmp_path):
    root = tmp_path / "coco"
    options = ("--path", root, "--base-url", server.url, "--splits", "val,annotations")
    assert run_setup(*options).returncode == 0
    image = root / "val2017/000000000009.jpg"
    size = image.stat().st_size
    image.write_bytes(bytes(size))  # as a bad disk leaves it: the length is right
    for name in ("instances_val2017.json", "instances_train2017.json"):
        (root / "annotations" / name).write_bytes(server.files["annotations/" + name])
    done = run_setup(*options)
    assert done.returncode == 1
    assert f"validator found something in {root}/val2017: see above" in done.stderr
    assert "3/3" in done.stderr
    assert (root / "val2017_invalid/000000000009.jpg").stat().st_size == size
    assert category_ids(root / "annotations/instances_val2017.json")[0] == [0, 1, 2]


@pytest.mark.parametrize("seconds", [0.4, 0.9])
def test_an_interruption_at_any_time_is_continued(server, tmp_path, seconds):
    """Ctrl-C goes to the whole group of processes, as a terminal sends it."""
    server.rate = 60_000
    root = tmp_path / "coco"
    command = [str(ROOT / "setup_coco"), "--path", str(root), "--base-url", server.url]
    process = subprocess.Popen(
        command, env=environment(PYTHON=sys.executable), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"setup_coco: interrupted; to continue: {' '.join(command)}"
    server.rate = 0
    done = run_setup("--path", root, "--base-url", server.url)
    assert done.returncode == 0, done.stderr
    check_all(root, server.files)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option):
    done = run_setup(option)
    assert done.returncode == 0 and done.stdout.startswith("usage: ./setup_coco [--path DIR]")


@pytest.mark.parametrize("options", [["--path"], ["--unknown"], ["--splits", "valid"]])
def test_wrong_usage(options, tmp_path):
    done = run_setup(*options, *(["--path", str(tmp_path)] if options != ["--path"] else []))
    assert done.returncode == 2
    assert "2/3" not in done.stderr


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the repository without an environment."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "vision", folder / "vision")
    for path in [*ROOT.glob("*.py"), ROOT / "setup_coco", ROOT / "pyproject.toml"]:
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("how", ["PYTHON", "VIRTUAL_ENV"])
def test_a_chosen_environment_without_the_packages_is_not_changed(bare_python, checkout, how):
    path = f"{bare_python}:{os.environ['PATH']}"
    chosen = {"PYTHON": str(bare_python / "python"), "VIRTUAL_ENV": str(bare_python.parent)}
    done = run_setup(
        script=checkout / "setup_coco", env=environment(PATH=path, **{how: chosen[how]})
    )
    assert done.returncode == 1
    assert "lacks packages: run '" in done.stderr and done.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


def test_an_environment_beside_the_script_is_used(server, tmp_path, bare_python, checkout):
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    sources = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "here.pth").write_text("\n".join(sources))
    env = environment(PATH=f"{bare_python}:{os.environ['PATH']}")
    script = checkout / "setup_coco"
    options = ("--path", tmp_path / "coco", "--base-url", server.url, "--splits", "val,annotations")
    done = run_setup(*options, script=script, env=env)
    assert done.returncode == 0, done.stderr


def test_an_environment_is_made_and_an_interrupted_one_completed(bare_python, checkout):
    """Without an index the packages cannot come: what is tested is each step up to that."""
    path = f"{bare_python}:{os.environ['PATH']}"
    env = environment(PATH=path, PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    made = []
    for _ in range(2):
        done = run_setup(script=checkout / "setup_coco", env=env)
        assert done.returncode == 1
        assert done.stderr.startswith("setup_coco: making an environment in ")
        assert done.stderr.splitlines()[-1].startswith("setup_coco: error: the packages did not")
        made.append((checkout / ".venv/bin/python").lstat().st_ctime_ns)
    assert made[0] == made[1]
