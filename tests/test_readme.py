"""The commands of the README and of docs/next-steps.txt work, as printed, on drawn data.

They run in their order in one folder with `my-data` (YOLO labels), `photos` and an `imagenet`
download that is there already; only `INSTALL` is not run. What makes them short is added behind:

- training: one epoch at 96 px, one thread, and a narrow backbone where no weights have to fit;
- `--resume`: a second epoch;
- `eval_ssd.py`: no loading process;
- `setup_coco`: a mirror with a COCO of a dozen images instead of the server;
- `make`: only says what it would do.

All other documents' commands are parsed.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from coco_mirror import make_mirror
from script_runs import FAST, Run, call

from docs.flags_page import PARSERS
from docs.networks_table import README, with_table

ROOT = Path(__file__).resolve().parent.parent
NEXT_STEPS = ROOT / "docs/next-steps.txt"
PAGES = [README, *sorted(ROOT.glob("docs/*.md")), ROOT / "CONTRIBUTING.md"]
INSTALL = ("python3 -m venv", "pip install")
COMMAND = re.compile(r"(?:^|\s\s|\$ )((?:\./|python3? |pip |make |torchrun ).*)")
IMAGENET = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2


def commands_in(text: str) -> list[str]:
    """The command lines of a text's indented or fenced lines, continued ones joined."""
    lines, fenced = [], False
    for line in re.sub(r"\\+\n\s*", " ", text).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("  "):
            lines.append(line)
    found = [match[1].split("  #")[0].strip() for line in lines if (match := COMMAND.search(line))]
    return list(dict.fromkeys(found))


def python_in(text: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


TO_RUN = list(dict.fromkeys(commands_in(README.read_text()) + commands_in(NEXT_STEPS.read_text())))


def draw_my_data(root: Path) -> None:
    """Eight images of training and four of validation, a box of each of two classes in each."""
    rng = np.random.default_rng(0)
    boxes = np.array([[5, 5, 40, 40], [50, 50, 42, 30]])  # x, y, width, height of 96 px
    for folder in ("images", "labels", "splits"):
        (root / folder).mkdir(parents=True)
    rows = [
        f"{label} {(x + w / 2) / 96} {(y + h / 2) / 96} {w / 96} {h / 96}\n"
        for label, (x, y, w, h) in enumerate(boxes.tolist())
    ]
    for number in range(12):
        # Unlike any other, or check_dataset.py would find val images in train.
        pixels = cv2.resize(rng.integers(0, 200, (6, 6, 3), np.uint8), (96, 96))
        for (x, y, w, h), colour in zip(boxes, (250, 140), strict=True):
            pixels[y : y + h, x : x + w] = colour
        cv2.imwrite(str(root / f"images/{number}.png"), pixels)
        (root / f"labels/{number}.txt").write_text("".join(rows))
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        names = "".join(f"images/{number}.png\n" for number in numbers)
        (root / f"splits/{split}.txt").write_text(names)
    (root / "classes.txt").write_text("light\ndark\n")


def store_imagenet_weights(cache: Path) -> None:
    """Put random weights where torchvision keeps a download."""
    file = cache / "hub/checkpoints" / IMAGENET.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), file)


def run(command: str, mirror: Path) -> Run:
    """Do what a command says, by the rules above."""
    program, *argv = shlex.split(command)
    if program == "make":
        done = subprocess.run([program, "-n", *argv], cwd=ROOT, capture_output=True, text=True)
        return Run(done.returncode, done.stdout, done.stderr, [])
    if program == "./setup_coco":
        line = [ROOT / program, *argv, "--base-url", mirror.as_uri()]
        environment = {**os.environ, "PYTHON": sys.executable}
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        return Run(done.returncode, done.stdout, done.stderr, [])
    if program.startswith("./"):
        assert os.access(ROOT / program, os.X_OK), f"{program} cannot be started like this"
    script = Path(program).stem
    if script == "train_ssd" and "--resume" in argv:
        argv.append("--epochs=2")
    elif script == "train_ssd":
        has_weights = "--base-net" in argv or "--pretrained-ssd" in argv
        argv += [flag for flag in FAST if not (has_weights and "width" in flag)]
    elif script == "eval_ssd":
        argv.append("--workers=0")
    return call(script, *argv)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the commands run."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, Run]:
    """What came of each command."""
    draw_my_data(folder / "my-data")
    (folder / "photos").mkdir()
    photo = cv2.imread(str(folder / "my-data/images/0.png"))
    cv2.imwrite(str(folder / "photos/one.jpg"), photo)
    store_imagenet_weights(folder / "torch")
    mirror = folder / "mirror"
    make_mirror(mirror)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        return {command: run(command, mirror) for command in TO_RUN if not is_install(command)}


def is_install(command: str) -> bool:
    return command.startswith(INSTALL)


@pytest.mark.parametrize("command", [c for c in TO_RUN if not is_install(c)])
def test_a_command_works(outcomes, command):
    outcome = outcomes[command]
    assert (outcome.code, outcome.errors) == (0, []), outcome.err


def test_what_the_commands_leave(outcomes, folder):
    for path in (
        "coco-data/annotations/instances_train2017.original.json",
        "runs/coco/checkpoint_epoch_0001.pt",
        "dry_run.jpg",
        "runs/mine/checkpoint_epoch_0002.pt",
        "results/metrics.json",
        "results/detections.json",
        "pictures/one_detections.jpg",
    ):
        assert (folder / path).is_file(), path


def test_the_installation_is_what_the_project_offers():
    (line,) = [command for command in TO_RUN if is_install(command)]
    assert line.split(" && ")[-1] == "pip install -e ."
    assert "[build-system]" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("page", "program"),
    [(page.name, text) for page in PAGES for text in python_in(page.read_text())],
    ids=lambda value: value.splitlines()[0] if "\n" in value else value,
)
def test_python_works(outcomes, folder, monkeypatch, capsys, page, program):
    monkeypatch.chdir(folder)
    program = program.replace(
        "score_threshold=0.3", "score_threshold=0.01"
    )  # one epoch teaches little
    names: dict = {}
    exec(compile(program, page, "exec"), names)
    printed = capsys.readouterr().out
    if "name, score, box" in program:
        name, score, *box = printed.splitlines()[0].split(maxsplit=2)
        assert name in ("light", "dark") and 0 < float(score) <= 1
        assert len(ast.literal_eval(box[0])) == 4
    elif "found.xyxy" in program:  # how many are above its threshold is left to the training
        found = names["found"]
        assert found.xyxy.shape == (len(found.confidence), 4)
        assert len(names["rows"]) == len(found.class_id)
        assert set(found.names) <= {"light", "dark"} and "[" in printed


def documented() -> list[tuple[str, str]]:
    """The commands of every page, and of every script's own text."""
    texts = {page.name: page.read_text(encoding="utf-8") for page in [*PAGES, NEXT_STEPS]}
    texts["RESULTS.md"] = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    for script in PARSERS:
        texts[script] = ast.get_docstring(ast.parse((ROOT / script).read_text()))
    return [(name, command) for name, text in texts.items() for command in commands_in(text)]


@pytest.mark.parametrize(("page", "command"), documented())
def test_a_documented_command_can_be_parsed(page, command):
    words = shlex.split(command, comments=True)
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None:
        assert words[0] in ("make", "pip", "python", "python3", "./setup_coco"), command
        if words[0] == "python" and words[1] == "-m":
            assert find_spec(words[2])
        return
    assert (ROOT / script).is_file()
    if Path(script).name in PARSERS:
        PARSERS[Path(script).name]().parse_args(words[words.index(script) + 1 :])


# ---- what else the README says


def test_the_table_of_networks_is_current():
    text = README.read_text(encoding="utf-8")
    assert with_table(text) == text, "write it again: make docs"


def test_the_map_names_every_folder():
    text = README.read_text(encoding="utf-8")
    entries = re.findall(r"^ {4}vision/(.*?)  ", text, re.MULTILINE)
    named = [name for entry in entries for name in entry.split(", ")]
    assert sorted(named) == sorted(p.parent.name for p in ROOT.glob("vision/*/__init__.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = target.partition("#")
        if ":" in file:
            continue
        linked = (page.parent / file) if file else page
        assert linked.is_file(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {
                re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings
            }
