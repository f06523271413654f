"""The trace of a few steps, and what it says limits the run."""

import json

import pytest

from vision.engine.profile import StepProfiler, limit_line


@pytest.mark.parametrize(
    ("shares", "precision", "words"),
    [
        ((0.4, 0.5, 0.1), "bf16", ("data limits", "40%", "--workers", "--cache ram")),
        ((0.05, 0.45, 0.5), "bf16", ("evaluation limits", "50%", "--eval-every")),
        ((0.05, 0.9, 0.05), "fp32", ("compute limits", "90%", "--precision bf16")),
        ((0.05, 0.9, 0.05), "bf16", ("compute limits", "90%", "--image-size")),
    ],
)
def test_one_line_names_the_limit_and_a_flag(shares, precision, words):
    record = dict(zip(("data_wait", "step_share", "eval_share"), shares, strict=True))
    line = limit_line(record, precision=precision)
    assert all(word in line for word in words) and "\n" not in line
    assert ("bf16 where" in line) == (precision == "fp32")


@pytest.mark.parametrize(
    ("num_steps", "traced"), [(1, []), (2, []), (5, [3, 4, 5]), (12, [3, 4, 5, 6, 7])]
)
def test_the_trace_has_what_there_was_of_five_steps(num_steps, traced, tmp_path, caplog):
    caplog.set_level("INFO")
    profiler = StepProfiler(tmp_path, precision="fp32")
    for _ in range(num_steps):
        profiler.after_step()
    profiler.after_epoch({"data_wait": 0.0, "step_share": 1.0, "eval_share": 0.0})
    assert "compute limits this run: 100%" in caplog.text
    assert profiler.path.exists() == bool(traced) == (str(profiler.path) in caplog.text)
    assert [path for path in tmp_path.iterdir() if path != profiler.path] == []
    if traced:
        events = json.loads(profiler.path.read_text())["traceEvents"]
        steps = {event["name"] for event in events if "ProfilerStep#" in event.get("name", "")}
        assert steps == {f"ProfilerStep#{step}" for step in traced}
