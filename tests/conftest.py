"""Fixtures shared by the tests: the repository's scripts, and the optional shared data."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# No test's result may depend on how busy the machine is, nor on a fixture that each example shares.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    max_examples=50,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture
    ],
)  # fmt: skip
hypothesis.settings.load_profile("tests")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
# The files that take longest, which `make test` gives to its processes first, so that none of
# them is alone at the end.
LONGEST = (
    "test_resume.py", "test_distributed.py", "test_onnx_file.py", "test_export_ssd.py",
    "test_bad_input.py", "test_evaluate.py", "test_resume_changes.py", "test_length.py",
    "test_family_networks.py", "test_train_ssd.py", "test_readme.py", "test_loader.py",
    "test_image_cache.py", "test_nonfinite.py", "test_save_errors.py", "test_old_runs.py",
)  # fmt: skip

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job, and its children
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put LONGEST first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and golden values beside the checkout; tests skip without it."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED


@pytest.fixture(scope="session")
def run_script():
    """Run a top-level script as a user does: `run_script("eval_ssd.py", "--help")`."""

    def run(script: str, *arguments, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)

    return run


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory) -> Path:
    """A small detector of cat, dog and owl, as export_ssd.py writes it for onnxruntime."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from export_models import CLASSES, opinionated

    from vision.deploy.export import ExportOptions, build_export

    folder = tmp_path_factory.mktemp("device")
    options = ExportOptions(score_threshold=0.35)
    build_export("onnx", opinionated(), CLASSES, options, trained_model="runs/x").write(folder)
    return folder / "mb2-ssd-lite-onnx.onnx"


@pytest.fixture
def bounded():
    """Give a test a gigabyte besides what is mapped now, and two minutes, for all its examples.

    More memory is a MemoryError, more time a failure; neither is an error that a reader may raise.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the memory in use is looked up in /proc")
    mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**30, limits[1]))
    handler = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("took longer than two minutes"))
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, limits)
