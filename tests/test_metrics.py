"""metrics.jsonl, whole at any moment."""

import json

import pytest

from vision.engine.metrics import MetricsLog, peak_memory_mb


def record(epoch, **values):
    return {"epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, **values}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_an_epoch(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    assert not path.exists()
    for epoch in (1, 2, 3):
        log.append(record(epoch, AP=None if epoch == 1 else 0.5))
        assert read(path) == [record(n, AP=None if n == 1 else 0.5) for n in range(1, epoch + 1)]
    assert path.read_text().endswith("\n")
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_later_process_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).append(record(1))
    MetricsLog(path).append(record(2))
    assert read(path) == [record(1), record(2)]


def test_an_epoch_done_again_replaces_itself_and_what_came_after(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for epoch in (1, 2, 3):
        log.append(record(epoch))
    log.append(record(2, again=True))
    assert read(path) == [record(1), record(2, again=True)]


@pytest.mark.parametrize(("epoch", "left"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_epochs_after_the_one_resumed_from_are_forgotten(tmp_path, epoch, left):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for number in (1, 2, 3):
        log.append(record(number))
    MetricsLog(path).keep_until(epoch)
    assert [item["epoch"] for item in read(path)] == left


@pytest.mark.parametrize(
    "text",
    ['{"epoch": 1}\n{"epo', "not json\n", "[1]\n", '{"step": 1}\n', '{"epoch": "one"}\n'],
    ids=["cut", "no JSON", "a list", "no epoch", "epoch of text"],
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: ") as error:
        MetricsLog(path)
    assert "\n" not in str(error.value) and path.read_text() == text


def test_peak_memory_is_that_of_this_process():
    held = b"x" * 50_000_000
    assert 50 < peak_memory_mb() < 50_000 and held
