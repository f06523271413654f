"""compare_runs.py: what differs, which run is better, and what cannot be compared."""

import json
import re
import shutil

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from detection_factory import random_case
from report_factory import make_validation, write_run
from script_runs import FAST, call, tree

from vision.datasets.sample import write_sample_dataset
from vision.evaluation.coco_boxes import Detections
from vision.report.analysis import Analysis
from vision.report.comparison import (
    ComparedRun,
    build_page,
    class_verdicts,
    different_settings,
    text_lines,
    verdict,
)
from vision.report.comparison import compare_runs as compare
from vision.report.inputs import read_history

NAMES = ["cat", "dog", "owl"]
QUICK = ["--workers=0", "--resamples=40", "--device=cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set and two runs of one epoch, of other seeds and inputs."""
    root = tmp_path_factory.mktemp("compare")
    write_sample_dataset(root / "data", num_train=8, num_val=6, image_size=(96, 96))
    for name, seed, size in (("a", 0, 96), ("b", 1, 128)):
        argv = [*FAST, "--datasets", root / "data", "--checkpoint-folder", root / name]
        done = call("train_ssd", *argv, f"--seed={seed}", f"--image-size={size}")
        assert done.code == 0, done.err
    return root


def copied(place, tmp_path, name: str, **changes):
    """A copy of a run whose config.json has other values."""
    shutil.copytree(place / name, tmp_path / name)
    config = json.loads((tmp_path / name / "config.json").read_text())
    config.update(changes)
    (tmp_path / name / "config.json").write_text(json.dumps(config))
    return tmp_path / name


def test_two_runs_as_json(place):
    before = tree(place)
    done = call("compare_runs", place / "a", place / "b", "--json", *QUICK)
    assert (done.code, done.errors) == (0, [])
    result = json.loads(done.out)
    assert result["images"] == 6 and [run["name"] for run in result["runs"]] == ["a", "b"]
    assert result["settings"]["--seed"] == [0, 1]
    assert result["settings"]["--image-size"] == [[96, 96], [128, 128]]
    assert "--epochs" not in result["settings"]
    (comparison,) = result["comparisons"]
    for name in ("AP", "AP50", "AR100"):
        difference = comparison[name]
        assert difference["value"] == pytest.approx(
            result["runs"][1][name] - result["runs"][0][name], abs=1e-9
        )
        assert difference["low"] <= difference["high"]
    assert set(comparison["per_class"]) == {"circle", "square", "triangle", "star"}
    recorded = json.loads((place / "a" / "metrics.jsonl").read_text())
    assert result["runs"][0]["AP"] == pytest.approx(recorded["AP"], abs=1e-6)
    assert tree(place) == before  # runs are only read


def test_table_and_page(place, tmp_path):
    page = tmp_path / "compared.html"
    done = call("compare_runs", place / "a", place / "b", place / "a", "--html", page, *QUICK)
    assert done.code == 0, done.err
    assert re.search(r"^a +0\.\d{3} ", done.out, re.MULTILINE)
    assert "  --seed: 0 | 1 | 0" in done.out
    assert "a and a: no difference can be told from 6 images (AP +0.000" in done.out
    text = page.read_text(encoding="utf-8")
    assert "a and a: no difference can be told from 6 images" in text and "AP on val" in text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    if CHROMIUM:
        with Browser() as browser:
            browser.open(page, width=400)
            assert browser.complaints() == [] and browser.requests() == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_checkpoint_of_a_run_can_be_named(place):
    done = call("compare_runs", place / "a" / "checkpoint_last.pt", place / "b", *QUICK)
    assert done.code == 0 and "checkpoint_last.pt" in done.out


def test_other_val_images_are_refused(place, tmp_path):
    val = {"images": 7, "boxes": 20, "sha256": "0" * 64}
    other = copied(place, tmp_path, "b", data={"val": val})
    done = call("compare_runs", place / "a", other, *QUICK)
    assert done.code == 1 and len(done.errors) == 1 and done.out == ""
    assert "b was validated on other images or boxes than a (7 images with 20" in done.errors[0]
    assert "--dataset ROOT" in done.errors[0]
    done = call("compare_runs", place / "a", other, "--dataset", place / "data", *QUICK)
    assert done.code == 0, done.err


def test_other_classes_are_refused(place, tmp_path):
    config = json.loads((place / "b" / "config.json").read_text())
    classes = [*config["classes"][:-1], {**config["classes"][-1], "name": "moon"}]
    done = call("compare_runs", place / "a", copied(place, tmp_path, "b", classes=classes), *QUICK)
    assert done.code == 1 and "b has other classes than a: circle, " in done.errors[0]


def test_the_order_of_the_classes_does_not_matter(place, tmp_path):
    """The same data with their categories numbered from the other end."""
    shutil.copytree(place / "data", tmp_path / "data")
    for file in (tmp_path / "data" / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        ids = {item["id"]: item for item in content["categories"]}
        turned = dict(zip(ids, reversed(ids), strict=True))
        for item in content["categories"]:
            item["id"] = turned[item["id"]]
        for item in content["annotations"]:
            item["category_id"] = turned[item["category_id"]]
        content["categories"].reverse()
        file.write_text(json.dumps(content))
    argv = [*FAST, "--datasets", tmp_path / "data", "--checkpoint-folder", tmp_path / "c"]
    done = call("train_ssd", *argv, "--seed=1", "--image-size=128")
    assert done.code == 0, done.err
    labels = [(run / "labels.txt").read_text().split()[1:] for run in (place / "b", tmp_path / "c")]
    assert labels[0] == labels[1][::-1]
    for first, second in ((place / "b", tmp_path / "c"), (tmp_path / "c", place / "b")):
        done = call("compare_runs", first, second, "--json", *QUICK)
        assert done.code == 0, done.err
        result = json.loads(done.out)
        for run, folder in zip(result["runs"], (first, second), strict=True):
            recorded = json.loads((folder / "metrics.jsonl").read_text())
            assert run["AP"] == pytest.approx(recorded["AP"], abs=1e-6)
        per_class = result["comparisons"][0]["per_class"]
        assert list(per_class) == (first / "labels.txt").read_text().split()[1:]
    val = next((tmp_path / "data" / "annotations").glob("*val*.json"))
    content = json.loads(val.read_text())
    content["annotations"][0]["bbox"][0] += 5
    val.write_text(json.dumps(content))
    done = call("compare_runs", tmp_path / "c", place / "b", *QUICK)
    assert done.code == 1 and "b was validated on other images or boxes than c" in done.errors[0]


def test_data_that_changed_since_are_refused(place, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    config = json.loads((place / "a" / "config.json").read_text())
    arguments = {**config["arguments"], "datasets": [str(tmp_path / "data")]}
    annotations = next((tmp_path / "data" / "annotations").glob("*val*.json"))
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    annotations.write_text(json.dumps(content))
    first = copied(place, tmp_path, "a", arguments=arguments)
    done = call("compare_runs", first, place / "b", *QUICK)
    assert done.code == 1 and "the val split has changed since a was trained" in done.errors[0]


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (["a"], 2, "two runs or more"),
        (["a", "b", "--resamples=3"], 2, "--resamples 20"),
        (["a", "nowhere"], 1, "nowhere: no run there"),
        (["a", "b", "--dataset", "nowhere"], 1, "nowhere"),
    ],
    ids=["one", "resamples", "no run", "no data"],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(place, monkeypatch, argv, code, word):
    monkeypatch.chdir(place)
    done = call("compare_runs", *argv)
    assert done.code == code and len(done.errors) == 1 and word in done.errors[0]
    assert done.out == ""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run, the same with noise scored lower, and one without the best half of its hits."""
    folder = tmp_path_factory.mktemp("drawn")
    gt, dt = random_case(2, num_images=60, crowds=False)
    is_noise = np.arange(len(dt)) >= 2 * (2 * len(gt.labels) // 3)
    better = Detections(dt.image_index, dt.labels, dt.boxes_xywh, dt.scores - 0.4 * is_noise)
    runs = []
    for name, detections in (("plain", dt), ("better", better), ("again", dt)):
        run = write_run(folder / name, AP=[0.1, 0.2])
        analysis = Analysis(make_validation(folder / name, NAMES, (gt, detections)))
        runs.append(ComparedRun(name, analysis, read_history(run)))
    return runs


def test_verdicts(drawn):
    against_better, against_itself = compare(drawn, num_resamples=100)
    difference = against_better.numbers["AP"]
    assert difference.low > 0
    ends = f"(95 %: {difference.low:.3f} to {difference.high:.3f})"
    assert (
        verdict(against_better)
        == f"better is better than plain by {difference.value:.3f} AP {ends}."
    )
    (reverse,) = compare([drawn[1], drawn[0]], num_resamples=100)
    assert verdict(reverse) == verdict(against_better)
    assert verdict(against_itself) == (
        "again and plain: no difference can be told from 60 images "
        "(AP +0.000, 95 %: +0.000 to +0.000)."
    )
    assert class_verdicts(against_itself) == ["no difference can be told in 3 classes"]
    told = [name for name, d in against_better.per_class.items() if d.is_significant]
    assert told and class_verdicts(against_better)[0].split(":")[0] in told


def test_settings_that_differ(drawn):
    first, second = drawn[0], drawn[1]
    assert different_settings([first, second]) == {}
    second.history.config["arguments"]["lr"] = 0.5
    second.history.config["versions"] = {"torch": "9"}
    assert different_settings([first, second]) == {
        "--lr": [0.01, 0.5],
        "versions.torch": [None, "9"],
    }


def test_hostile_run_names_are_text(drawn):
    runs = [drawn[0], ComparedRun("<img src=x>", drawn[1].analysis, drawn[1].history)]
    comparisons = compare(runs, num_resamples=20)
    assert "<img" not in build_page(runs, comparisons)
    assert any("<img src=x>" in line for line in text_lines(runs, comparisons))
