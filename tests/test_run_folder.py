"""A run's folder: one writer, what stays and what goes, nothing lost on a return."""

import json
import os
import socket

import pytest
from test_checkpoint import make_state

from vision.engine.metrics import MetricsLog
from vision.runs.checkpoint import epoch_path, serialize, step_path
from vision.runs.run_folder import (
    RunLock,
    check_config,
    obsolete_checkpoints,
    read_config,
    repair_links,
    set_aside_later,
    write_config,
)
from vision.training.resume import find_checkpoint

CLASSES = [{"label": 1, "category_id": 7, "original_category_id": 9, "name": "cat"}]
CONFIG = {"arguments": {"seed": 3}, "classes": CLASSES, "history": []}


def touch(run, *names):
    for name in names:
        (run / f"checkpoint_{name}.pt").write_bytes(name.encode())


def names(paths) -> list[str]:
    return sorted(path.name.removeprefix("checkpoint_").removesuffix(".pt") for path in paths)


def lock_in_another_process(run) -> str:
    """Try to lock from a forked process; return what it said, "" if it got the lock."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        message = ""
        try:
            RunLock(run)
        except ValueError as error:
            message = str(error)
        os.write(writer, message.encode() + b".")
        os._exit(0)
    os.wait()
    return os.read(reader, 10000).decode()[:-1]


def test_a_second_process_is_refused_with_the_first_ones_pid_and_host(tmp_path):
    with RunLock(tmp_path):
        message = lock_in_another_process(tmp_path)
        assert f"pid {os.getpid()} on {socket.gethostname()} trains in this folder" in message
    assert lock_in_another_process(tmp_path) == ""


def test_a_dead_process_leaves_no_lock(tmp_path):
    assert lock_in_another_process(tmp_path) == ""  # it ended without giving the lock back
    assert (tmp_path / "run.lock").read_text().startswith("pid ")
    with RunLock(tmp_path):
        assert f"pid {os.getpid()} " in (tmp_path / "run.lock").read_text()


def test_config_and_labels_are_written_and_read(tmp_path):
    write_config(tmp_path, CONFIG)
    assert read_config(tmp_path) == CONFIG
    assert (tmp_path / "labels.txt").read_text() == "BACKGROUND\ncat\n"


def test_a_folder_without_a_run_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"no run there \(looked for config\.json and"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"arguments": 1}', '{"arguments": {}, "classes": [3], "history": []}'],
)
def test_another_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: not (JSON|a configuration written by)"):
        read_config(tmp_path)


def test_history_is_checked():
    check_config(CONFIG | {"history": [{"changes": {"lr": [1, 2]}}]}, where="here")
    with pytest.raises(ValueError, match="here: not a configuration"):
        check_config(CONFIG | {"history": [{"changes": 3}]}, where="here")


@pytest.mark.parametrize(
    "keep_last, best, epochs",
    [(0, None, []), (9, None, []), (2, None, [1]), (2, 1, []), (1, 4, [1, 2]), (1, 1, [2])],
)
def test_what_a_new_epoch_makes_needless(tmp_path, keep_last, best, epochs):
    """After epoch 4, when epoch 3 could not be written; epoch 5 is not of this run's past."""
    touch(tmp_path, "epoch_0001", "epoch_0002_step_00000015", "epoch_0002", "epoch_0004")
    touch(tmp_path, "epoch_0004_step_00000039", "epoch_0005", "last", "best")
    steps = ["epoch_0002_step_00000015", "epoch_0004_step_00000039"]
    found = obsolete_checkpoints(tmp_path, epoch=4, best_epoch=best, keep_last=keep_last)
    assert names(found) == sorted([f"epoch_{epoch:04d}" for epoch in epochs] + steps)


def test_a_return_sets_later_checkpoints_aside_with_the_metrics(tmp_path):
    touch(tmp_path, "epoch_0001", "epoch_0002", "epoch_0003_step_00000025", "epoch_0003")
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    for epoch in (1, 2, 3):
        metrics.append({"epoch": epoch, "AP": 0.1 * epoch})
    folder = set_aside_later(tmp_path, position=(2, 1, 0), best_epoch=2)
    assert folder == tmp_path / "set_aside_1"
    assert names(folder.glob("*.pt")) == ["epoch_0003", "epoch_0003_step_00000025"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert names(tmp_path.glob("*.pt")) == ["epoch_0001", "epoch_0002"]
    assert set_aside_later(tmp_path, position=(2, 1, 0), best_epoch=2) is None
    touch(tmp_path, "best")
    folder = set_aside_later(tmp_path, position=(1, 1, 0), best_epoch=None)
    assert folder == tmp_path / "set_aside_2"
    assert names(folder.glob("*.pt")) == ["best", "epoch_0002"]


def test_links_are_repaired(tmp_path):
    touch(tmp_path, "epoch_0001", "epoch_0002", "last", "best")
    repair_links(tmp_path, epoch_path(tmp_path, 2), best_epoch=1)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == b"epoch_0002"
    assert (tmp_path / "checkpoint_best.pt").read_bytes() == b"epoch_0001"
    repair_links(tmp_path, epoch_path(tmp_path, 1), best_epoch=None)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == b"epoch_0001"
    assert (tmp_path / "checkpoint_best.pt").read_bytes() == b"epoch_0001"


def test_step_names_sort_with_their_epoch(tmp_path):
    assert step_path(tmp_path, 3, 25).name == "checkpoint_epoch_0003_step_00000025.pt"


def test_a_metrics_line_is_replaced_and_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for record in ({"epoch": 1, "AP": 0.1}, {"epoch": 2, "AP": 0.2}, {"epoch": 2, "AP": 0.3}):
        MetricsLog(path).append(record)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"epoch": 1, "AP": 0.1}, {"epoch": 2, "AP": 0.3}]
    MetricsLog(path).keep_until(1)
    assert path.read_text() == '{"epoch": 1, "AP": 0.1}\n'


def test_edited_metrics_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\nhello\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: not the metrics of a run"):
        MetricsLog(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"epoch": 1}', '{"epoch": 2}'], []),
        (['{"epoch": 2}'], ["no metrics of 1 of the 2 epochs that are done, first of epoch 1"]),
        ([], ["no metrics of 2 of the 2 epochs that are done, first of epoch 1"]),
        (None, ["no metrics of 2 of the 2 epochs that are done, first of epoch 1"]),
    ],
)
def test_metrics_that_lack_epochs_of_the_checkpoint_are_noticed(tmp_path, caplog, lines, said):
    state = make_state(epoch=2) | {"config": CONFIG, "classes": CLASSES}
    epoch_path(tmp_path, 2).write_bytes(serialize(state))
    write_config(tmp_path, state["config"])
    if lines is not None:
        (tmp_path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    assert find_checkpoint(tmp_path, None)[1] == epoch_path(tmp_path, 2)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == len(said) and all(words in warnings[0] for words in said)
