"""report.html: one file, its numbers those of metrics.json, whatever the classes are called."""

import html
import logging
import re

import pytest
from detection_factory import found, random_case, truth
from report_factory import make_validation, write_run

from vision.evaluation.coco_eval import PRECISIONS, RECALLS
from vision.report.analysis import Analysis
from vision.report.inputs import read_history
from vision.report.report import build_report, write_report
from vision.report.summary import summary_lines

NAMES = ["cat", "dog", "owl"]
HOSTILE = [
    "<script>alert(1)</script>",
    "\"quoted\" 'twice' & so",
    "\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629",  # Hebrew and Arabic, right to left
    "$\\frac{1}{0}$ {{ 7 * 7 }} %s",
    "new\nline\ttab",
    "\u732b" * 40,
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run of three epochs, and what it was made from."""
    folder = tmp_path_factory.mktemp("report")
    run = write_run(
        folder / "run", AP=[0.1, 0.2, 0.3], AP50=[0.2] * 3, AP75=[0.1] * 3, val_loss=[2.0] * 3
    )
    analysis = Analysis(make_validation(folder, NAMES))
    path = write_report(run, analysis, run=run)
    return path.read_text(encoding="utf-8"), analysis, path


def test_it_is_one_file_that_asks_for_nothing(page):
    text, _, path = page
    assert path.name == "report.html" and path.stat().st_size < 3e6
    addresses = re.findall(r'(?:src|href|xlink:href|action)="([^"]*)"', text)
    assert addresses and all(a.startswith(("#", "data:image/")) for a in addresses)
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/1999/xlink"}


def test_every_figure_says_what_it_is(page):
    text, _, _ = page
    drawings = re.findall(r"<svg[^>]*>", text)
    assert len(drawings) == len(re.findall("<figcaption>", text)) >= 15
    for drawing in drawings:
        assert re.search(r'width="\d+" height="\d+" role="img" aria-label="[^"]+"', drawing)
    for picture in re.findall(r"<img[^>]*>", text):
        assert re.search(r'width="\d+" height="\d+" alt="[^"]+"', picture)
    captions = re.findall(r"<figcaption><b>[^<]*</b> (.*?)</figcaption>", text, re.DOTALL)
    assert all(re.search(r"\d", caption) for caption in captions)  # each has a number of this run


def test_no_two_elements_have_one_id(page):
    names = re.findall(r'\bid="([^"]+)"', page[0])
    assert len(names) == len(set(names))


def test_the_numbers_are_those_of_metrics_json_to_the_digit(page):
    text, analysis, _ = page
    metrics = analysis.given.metrics
    for name in (*PRECISIONS, *RECALLS):
        value, shown = re.search(rf'id="{name}" data-value="([^"]*)">([^<]*)<', text).groups()
        assert float(value) == metrics[name]
        assert shown == f"{metrics[name]:.3f}"
    row = next(r for r in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL) if "<bdi>dog<" in r)
    values = re.findall(r'data-value="([^"]*)"', row)
    expected = metrics["per_class"]["dog"]
    assert float(values[3]) == expected["AP"] and float(values[5]) == expected["AP50"]
    assert int(values[1]) == expected["num_gt"]


def test_the_summary_says_the_same(page):
    text, analysis, path = page
    lines = summary_lines(analysis, report=str(path))
    metrics, ends = analysis.given.metrics, analysis.intervals["AP"]
    assert lines[0].startswith(
        f"AP {metrics['AP']:.3f} (95 %: {ends[0]:.3f} to {ends[1]:.3f}), AP50 {metrics['AP50']:.3f}"
    )
    assert f"AP {metrics['AP']:.3f} (95 %: {ends[0]:.3f} to {ends[1]:.3f})" in text
    worst = min(metrics["per_class"], key=lambda name: metrics["per_class"][name]["AP"])
    assert lines[1].startswith(f"lowest AP: {worst} {metrics['per_class'][worst]['AP']:.3f}")
    kind, gain, count = analysis.largest_losses()[0]
    assert lines[2].startswith(f"AP50 lost to: {kind} {gain:.3f} ({count})")
    assert f"{kind} {gain:.3f}" in text
    assert lines[-1] == f"report: {path}"


def test_it_says_how_to_go_on_with_this_runs_paths(page):
    text, _, path = page
    text = html.unescape(text)
    assert f"./train_ssd.py --resume {path.parent} --epochs 13" in text
    assert "--image-size 96x96" in text and "--tensorboard" not in text
    assert "after epoch 1, step 10: workers 0 to 2" in text
    assert "./run_ssd_example.py IMAGES --trained-model runs/cells" in text


@pytest.mark.parametrize(
    "names", [HOSTILE, [f"class {i}" for i in range(1000)]], ids=["odd", "1000"]
)
def test_class_names_do_no_harm(tmp_path, names):
    case = random_case(1, num_images=12, num_classes=len(names))
    validation = make_validation(tmp_path, names, case)
    path = write_report(tmp_path, Analysis(validation))
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 3e6
    assert text.count("<script") == 1 and "49" not in re.findall(r"<bdi>(.*?)</bdi>", text)
    shown = {html.unescape(cell) for cell in re.findall(r"<bdi>(.*?)</bdi>", text, re.DOTALL)}
    assert {name.replace("\t", "\\t") for name in names} <= shown


@pytest.mark.parametrize("name", ["no boxes", "no detections", "one image", "perfect"])
def test_validations_without_much_in_them(tmp_path, name):
    box, other = (0, 1, 10, 10, 50, 50), (1, 2, 10, 10, 50, 50)
    gt, dt = {
        "no boxes": (truth(), found((*box, 0.9))),
        "no detections": (truth(box, other), found()),
        "one image": (truth(box, num_images=1), found((*box, 0.9))),
        "perfect": (truth(box, other), found((*box, 0.9), (*other, 0.8))),
    }[name]
    validation = make_validation(tmp_path, NAMES, (gt, dt))
    analysis = Analysis(validation)
    path = write_report(tmp_path, analysis)
    assert path is not None
    lines = summary_lines(analysis)
    assert lines and all("nan" not in line for line in lines)
    visible = re.sub(r"<(svg|style|script).*?</\1>", "", path.read_text(), flags=re.DOTALL)
    assert not re.search(r"\bnan\b", visible)


def test_no_run_folder_and_no_training_data(tmp_path):
    validation = make_validation(tmp_path, NAMES, train_sources=None)
    text = build_report(Analysis(validation), read_history(tmp_path))
    assert 'id="training"' not in text and 'id="data"' in text


def test_a_failure_is_one_warning(tmp_path, caplog):
    validation = make_validation(tmp_path, NAMES)
    (tmp_path / "taken").write_text("a file, where a folder is needed")
    with caplog.at_level(logging.WARNING):
        analysis = Analysis(validation)
        path = write_report(tmp_path / "taken", analysis)
    assert path is None and len(caplog.records) == 1
    assert "\n" not in caplog.text.strip() and "report.html was not written" in caplog.text
    assert summary_lines(analysis)  # the numbers are there all the same


def test_metrics_that_are_cut_off_do_not_end_a_run(tmp_path, caplog):
    run = write_run(tmp_path / "run", AP=[0.1])
    (run / "metrics.jsonl").write_text('{"epoch": 1, "lo')
    path = write_report(run, Analysis(make_validation(tmp_path, NAMES)), run=run)
    assert path is None and len(caplog.records) == 1


def test_pictures_that_cannot_be_read_are_left_out(tmp_path):
    validation = make_validation(tmp_path, NAMES)
    for path in (tmp_path / "images").glob("*.jpg"):
        path.write_bytes(b"not an image")
    text = build_report(Analysis(validation), read_history(None))
    assert "<img" not in text and "None shown" in text


def test_paths_that_the_locale_cannot_read_are_written_as_they_are(tmp_path):
    """In LANG=C a path in UTF-8 comes as surrogates; half of a pair comes from a file."""
    as_bytes = "caf\u00e9".encode().decode("ascii", "surrogateescape")
    for weights, shown in ((f"runs/{as_bytes}", "runs/caf\u00e9"), ("runs/\ud800", "runs/?")):
        validation = make_validation(tmp_path, NAMES, weights=weights)
        path = write_report(tmp_path, Analysis(validation))
        assert f"<dd>{shown}</dd>" in path.read_text(encoding="utf-8")


def test_two_reports_of_one_result_are_equal(tmp_path):
    validation = make_validation(tmp_path, NAMES)
    first, second = (build_report(Analysis(validation), read_history(None)) for _ in range(2))
    assert first == second
