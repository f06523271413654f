"""What is installed: the list in pyproject.toml, and the line of a script that lacks a package."""

import ast
import functools
import re
import subprocess
import sys
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest

from vision.installed import require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin/python"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_packages_gets_one_line(bare_python, script, tmp_path):
    command = [bare_python, ROOT / script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith(f"error: {bare_python} lacks ")
    assert done.stderr.endswith(f"pip install -e {ROOT}\n")
    assert ("torch" in done.stderr) == ("torch" in needed(ROOT / script))


def test_the_line_names_what_is_missing_alone():
    require("sys", "pytest")
    with pytest.raises(SystemExit, match=r"lacks no_such_one, no_such_two: "):
        require("sys", "no_such_one", "pytest", "no_such_two")


@functools.cache
def imported(path: Path, *, on_start: bool) -> set[str]:
    """The modules that a file imports: on_start, or anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body if on_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def needed(script: Path) -> set[str]:
    """The packages without which a script does not start, its own modules followed."""
    seen, waiting, packages = set(), [script], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path, on_start=True):
            own = ROOT / f"{name.replace('.', '/')}.py"
            if own.is_file():
                waiting.append(own)
            packages.add(name.split(".")[0])
    return without_own(packages)


def without_own(packages: set[str]) -> set[str]:
    """Leave out Python's own modules and this repository's."""
    return packages - sys.stdlib_module_names - {"vision"} - {Path(s).stem for s in SCRIPTS}


# What is imported with the first detections only, since it takes memory and a second.
LATER = {
    s: {"torchvision"}
    for s in ("compare_runs.py", "eval_ssd.py", "export_ssd.py", "onnx_export.py")
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_asks_for_what_it_needs(script):
    path = ROOT / script
    for other in ("train_ssd", "export_ssd"):
        if other in imported(path, on_start=True):
            path = ROOT / f"{other}.py"  # asks for both
    asked = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asked |= {a.value for a in node.args} if node.func.id == "require" else set()
    assert asked == needed(ROOT / script) | LATER.get(script, set())


def owners(package: str) -> list[str]:
    """The distributions with its file; Python 3.10's packages_distributions() lacks some.

    One that is not installed is taken for one of its own name.
    """
    path = f"{package}/__init__.py,"
    found = [item for item in distributions() if path in (item.read_text("RECORD") or "")]
    return [item.metadata["Name"] for item in found] or [package.replace("_", "-")]


def test_every_package_that_is_imported_is_in_the_list():
    files = [*(ROOT / "vision").rglob("*.py"), *ROOT.glob("*.py")]
    packages = without_own({n.split(".")[0] for f in files for n in imported(f, on_start=False)})
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.split(r"[><=\[ ]", line)[0].lower() for lines in lists for line in lines}
    brought_by = packages_distributions()
    for package in packages:
        found = {name.lower() for name in brought_by.get(package) or owners(package)}
        assert found & names, f"{package} is imported, and pyproject.toml does not list it"


@pytest.mark.parametrize(
    ("name", "line"), [("requirements.txt", "-e ."), ("requirements-dev.txt", "-e .[dev]")]
)
def test_the_requirements_files_refer_to_the_list(name, line):
    lines = (ROOT / name).read_text().splitlines()
    assert [text for text in lines if not text.startswith("#")] == [line]
    assert "dev" in PROJECT["optional-dependencies"]
