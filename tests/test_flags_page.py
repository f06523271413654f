"""docs/flags.md is what the scripts' parsers say."""

from pathlib import Path

import pytest

from docs.flags_page import PAGE, PARSERS, page, section
from vision.ssd.models import MODELS

ROOT = Path(__file__).resolve().parent.parent


def rows(script: str) -> list[list[str]]:
    """The cells of a script's rows, without the heads of its tables."""
    lines = section(script, PARSERS[script]()).splitlines()
    tables = [line.replace("\\|", "/").strip("| ") for line in lines if line.startswith("| `")]
    return [[cell.strip() for cell in line.split("|")] for line in tables]


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: make docs"


def test_every_script_is_on_it():
    assert PARSERS.keys() == {path.name for path in ROOT.glob("*.py")}


@pytest.mark.parametrize("script", PARSERS)
def test_a_script_has_a_row_of_three_cells_for_each_flag(script):
    names = [cells[0].split("`")[1].split()[0] for cells in rows(script)]
    actions = [action for action in PARSERS[script]()._actions if action.dest != "help"]
    assert names == [(*action.option_strings, action.metavar)[0] for action in actions]
    assert {len(cells) for cells in rows(script)} == {3}


def test_what_a_row_says():
    found = {cells[0].split("`")[1].split()[0]: cells for cells in rows("train_ssd.py")}
    assert found["--net"][0] == f"`--net {'/'.join(MODELS)}`"
    assert found["--epochs"][:2] == ["`--epochs N`, `--num-epochs`", ""]
    assert found["--batch-size"][1] == "16"
    assert found["--milestones"][1] == "20.0 26.0" and found["--dry-run"][1] == ""
    assert found["--strict-labels"][0] == "`--strict-labels`"
    downloader = {cells[0]: cells for cells in rows("coco_downloader.py")}
    assert downloader["`--path PATH`"][1:] == ["coco-data", "folder for everything"]
