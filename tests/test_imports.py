"""Imports run downward only, and importing does nothing."""

import ast
import functools
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each package may import of vision/, itself aside. Modules straight in vision/ join the
# packages for the scripts: the flags, and what is built from them.
MODELS_AND_DATA = {"ssd", "datasets", "transforms", "nn", "ops", "files", "priors"}
ALLOWED = {
    "files": set(),
    "nn": set(),
    "ops": set(),
    "ssd": {"nn", "ops"},
    "datasets": {"ops", "files"},
    "transforms": {"ops"},
    "priors": {"ops", "datasets", "transforms"},
    "download": {"files", "datasets"},
    "validate": {"datasets", "files"},
    "repair": {"datasets", "files"},
    "doctor": {*MODELS_AND_DATA, "report", "evaluation"},
    "runs": {*MODELS_AND_DATA, "engine"},
    "engine": {*MODELS_AND_DATA, "runs", "evaluation", "report"},
    "evaluation": {*MODELS_AND_DATA, "engine"},
    "report": {*MODELS_AND_DATA, "evaluation", "engine", "runs"},
    "deploy": {*MODELS_AND_DATA, "runs", "engine", "evaluation"},
    "training": {
        *MODELS_AND_DATA,
        "runs",
        "engine",
        "evaluation",
        "report",
        "deploy",
        "args",
        "command_line",
        "data_flags",
    },
}
FORBIDDEN_NAMES = {"utils", "misc", "helpers", "common", "core"}
ARGPARSE_IS_IN = {  # besides the scripts
    "vision/args.py",
    "vision/command_line.py",
    "vision/data_flags.py",
    "vision/datasets/sample.py",
    "vision/deploy/detect.py",  # a script, which is copied to devices
}  # fmt: skip


def modules():
    return sorted(path for path in (ROOT / "vision").rglob("*.py"))


@functools.cache
def imported(path):
    """The modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages_of(path):
    """The parts of vision/ that a file imports: `ops`, or `args` for a module straight in it."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("vision.")}


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_downward_only(package):
    known = {path.stem for path in (ROOT / "vision").glob("*.py")} | ALLOWED.keys()
    for path in (ROOT / "vision" / package).rglob("*.py"):
        found = packages_of(path) & known
        # Drawing boxes needs nothing of vision/ itself, so any package may have it.
        wrong = found - ALLOWED[package] - {package, "visualize"}
        assert not wrong, f"{relative(path)} imports {wrong}"


def test_networks_know_nothing_of_their_cpu_forms():
    plain = [*(ROOT / "vision/nn").glob("*.py"), *(ROOT / "vision/ssd").rglob("*.py")]
    users = [path for path in plain if any("nn.cpu" in name for name in imported(path))]
    assert len(plain) > 5 and not users


def test_the_cpu_forms_have_one_door():
    for path in [*modules(), *ROOT.glob("*.py")]:
        if path.parent != ROOT / "vision/nn/cpu":
            inner = {name for name in imported(path) if name.startswith("vision.nn.cpu.")}
            assert all(name.startswith("vision.nn.cpu.optimize") for name in inner), relative(path)


def test_every_package_is_in_the_table():
    folders = {path.parent.name for path in (ROOT / "vision").glob("*/__init__.py")}
    assert folders == ALLOWED.keys()


def test_nothing_below_the_scripts_imports_one():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for path in modules():
        assert not imported(path) & scripts, relative(path)


def test_argparse_stays_with_the_scripts():
    users = {relative(path) for path in modules() if "argparse" in imported(path)}
    assert users - ARGPARSE_IS_IN == set()


def test_names_say_what_a_file_is_about():
    assert {path.stem for path in modules()} & FORBIDDEN_NAMES == set()


def test_every_file_says_what_it_is():
    for path in [*modules(), *ROOT.glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.isascii(), f"{relative(path)} is not ASCII"
        if path.name != "__init__.py":
            summary = ast.get_docstring(ast.parse(text))
            assert summary and summary.splitlines()[0], f"{relative(path)} has no docstring"


OF_HEAVY_CONVERTERS = {"tflite_file"} | ({"openvino_file"} if not find_spec("openvino") else set())
PROGRAM = """
import importlib.util, logging, os, random, sys, threading
import cv2, numpy, torch, torchvision, tqdm, msgspec  # what these do is not ours
if importlib.util.find_spec("openvino"):
    import openvino
num_threads = threading.active_count()

sys.argv = ["program", "--unheard-of"]  # a parser that ran at import would stop here
files = set(os.listdir())
state = random.getstate(), numpy.random.get_state()[1].tobytes(), bytes(torch.get_rng_state())
options = torch.get_num_threads(), cv2.getNumThreads(), torch.get_default_dtype()
for name in sys.stdin.read().split():
    importlib.import_module(name)
assert "pycocotools" not in sys.modules, "only its own evaluator needs it"
assert not logging.getLogger().handlers, "logging was set up"
assert threading.active_count() == num_threads, "a thread was started"
assert set(os.listdir()) == files, "files were written"
now = random.getstate(), numpy.random.get_state()[1].tobytes(), bytes(torch.get_rng_state())
assert now == state, "random numbers were drawn"
assert options == (torch.get_num_threads(), cv2.getNumThreads(), torch.get_default_dtype())
"""


def test_importing_does_nothing(tmp_path):
    paths = [
        path
        for path in modules()
        if path.name != "__init__.py" and path.stem not in OF_HEAVY_CONVERTERS
    ]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    names += [path.stem for path in ROOT.glob("*.py")]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="\n".join(names),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_data_tools_do_not_load_torch():
    """They would start four seconds later, and scan images in processes of 300 MB more each."""
    tools = (
        "fix_coco_annotations, validate_image_files, convert_yolo_to_coco, coco_downloader, "
        "convert_to_coco, split_dataset, detections_to_labels"
    )
    command = [sys.executable, "-c", f"import sys, {tools}; assert 'torch' not in sys.modules"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == 0, result.stderr
