"""The report of a run in training: after validations, of the best epoch at the end; TensorBoard."""

import importlib.util

import pytest
from detection_factory import found, random_case, truth
from report_factory import make_validation, write_run
from small_networks import build_small

from vision.engine.loggers import open_loggers
from vision.evaluation.coco_eval import evaluate_boxes
from vision.evaluation.evaluate import EvaluationResult
from vision.report.analysis import Analysis
from vision.report.run_report import RunReport
from vision.report.val_pictures import draw_detections, log_validation
from vision.ssd.postprocess import PostProcessing

NAMES = ["cat", "dog", "owl"]
BOX = (10, 10, 100, 100)


@pytest.fixture
def report(tmp_path):
    """Of a val split with two cats."""
    validation = make_validation(tmp_path, NAMES, (truth((0, 1, *BOX), (1, 1, *BOX)), found()))
    return RunReport(
        run=write_run(tmp_path / "run", AP=[0.1, 0.2, 0.3]),
        model=build_small("mb2-ssd-lite"),
        ground_truth=validation.ground_truth,
        class_names=NAMES,
        sources=validation.sources,
        train_sources=validation.sources,
        dataset="cells",
        postprocessing=PostProcessing(iou_threshold=0.5, voting_iou=0.6),
        command=["./train_ssd.py", "--datasets", "cells"],
    )


def result_of(report: RunReport, num_found: int) -> EvaluationResult:
    """A validation that found so many of the two cats."""
    detections = found(*((image, 1, *BOX, 0.9) for image in range(num_found)))
    metrics = evaluate_boxes(report.ground_truth, detections, class_names=NAMES)
    return EvaluationResult(metrics, detections, dict.fromkeys(NAMES, 0.9))


def text(report: RunReport) -> str:
    return (report.run / "report.html").read_text(encoding="utf-8")


def test_it_is_there_after_the_first_validation(report):
    report.after_epoch(1, None)
    assert not (report.run / "report.html").exists()
    report.after_epoch(2, result_of(report, 1))
    assert "Epoch 2, mb2-ssd-lite" in text(report)
    assert "./train_ssd.py --datasets cells" in text(report)
    assert "scores above 0.01, overlap up to 0.5, box voting from IoU 0.6 on" in text(report)


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    # A report takes 1 s, so the next is due 49 s after it.
    [(0, [1, 3]), (24, [1, 4, 3]), (50, [1, 3, 4, 3])],
)
def test_reports_take_a_fiftieth_of_the_time_and_the_end_has_the_best(
    report, monkeypatch, seconds, epochs
):
    now, written = [100.0], []

    def write(folder, analysis, *, run, data):
        written.append((analysis.given.epoch, data))
        now[0] += 1
        return folder / "report.html"

    monkeypatch.setattr("vision.report.run_report.write_report", write)
    monkeypatch.setattr("vision.report.run_report.time.monotonic", lambda: now[0])
    for epoch, num_found in ((1, 1), (2, None), (3, 2), (4, 1)):
        now[0] += seconds
        report.after_epoch(epoch, None if num_found is None else result_of(report, num_found))
    lines = report.finish(None)
    assert [epoch for epoch, _ in written] == epochs
    assert lines[0].startswith("epoch 3, the best: ")
    assert len({id(data) for _, data in written}) == 1  # the data are described and drawn once
    lines = report.finish(best_ap=2.0)  # the best was before a resume: the newest is reported
    assert lines[0].startswith("epoch 4: ") and written[-1][0] == 4


def test_the_end_reports_the_best_epoch(report):
    for epoch, num_found in ((1, 1), (2, 2), (3, 0)):
        report.after_epoch(epoch, result_of(report, num_found))
    lines = report.finish(best_ap=1.0)
    assert lines[0].startswith("epoch 2, the best: AP 1.000")
    assert lines[-1] == f"report: {report.run / 'report.html'}"
    assert "Epoch 2, " in text(report)


def test_after_a_resume_the_best_may_be_before(report):
    report.after_epoch(3, result_of(report, 1))
    report.after_epoch(4, result_of(report, 0))
    lines = report.finish(best_ap=0.9)
    assert lines[0].startswith("epoch 4: AP 0.000")


def test_a_run_without_a_validation_has_nothing_to_say(report):
    assert report.finish(None) == []


def test_a_folder_that_is_gone_is_one_warning(report, caplog):
    broken = result_of(report, 1)
    report.run = report.run / "gone" / "away"
    report.after_epoch(1, broken)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "report" not in report.finish(None)[-1]


def test_pictures_and_curves_in_tensorboard(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    analysis = Analysis(make_validation(tmp_path, NAMES, random_case(3, num_images=10)))
    loggers = open_loggers(("tensorboard",), tmp_path, {}, first_epoch=5)
    log_validation(loggers, analysis, 5)
    loggers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert sorted(tags["images"]) == [f"val/{i}" for i in range(8)]
    assert sorted(tags["tensors"]) == [f"precision-recall/{name}" for name in NAMES]
    image = events.Images("val/0")[0]
    assert (image.step, image.width, image.height) == (5, 400, 400)
    from tensorboard.util.tensor_util import make_ndarray

    rows = make_ndarray(events.Tensors("precision-recall/dog")[0].tensor_proto)
    assert rows[5].tolist() == pytest.approx([x / 100 for x in range(100, -1, -1)])  # recall
    assert rows[4].tolist() == pytest.approx(analysis.precision[0, ::-1, 1].tolist())


def test_detections_are_drawn_where_they_are(tmp_path):
    case = (
        truth((0, 1, *BOX), num_images=1),
        found((0, 1, *BOX, 0.9), (0, 2, 200, 200, 9, 9, 0.1)),
    )
    analysis = Analysis(make_validation(tmp_path, NAMES, case))
    picture = draw_detections(analysis, 0)
    assert picture.shape == (400, 400, 3)
    changed = (picture != picture[300, 300]).any(axis=-1)
    assert changed[10, 60] and changed[110, 60] and not changed[60, 60]
    assert not changed[200:215, 200:215].any()  # below the threshold
    (tmp_path / "images" / "0.jpg").unlink()
    assert draw_detections(analysis, 0) is None
