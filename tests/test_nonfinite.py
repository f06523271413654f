"""A loss that is not finite: the step is not taken, everything about it is written down."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from resume_runs import RECIPE, read_metrics
from trainer_host import At

from vision.engine.ema import ModelEma
from vision.engine.nonfinite import report_nonfinite
from vision.engine.optim import Schedule, build_optimizer
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import build_model

pytest_plugins = ["resume_fixtures"]
# The first step throws the weights so far that every loss after it is not finite.
EXPLODE = ["--lr=1e30", "--warmup-epochs=0", "--scheduler=none", "--ema=0"]
CPU = StepOptions(torch.device("cpu"), "fp32")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_state(*, scaled: bool) -> tuple[TrainingState, MultiBoxLoss]:
    torch.manual_seed(0)
    model = build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    optimizer = build_optimizer("sgd", model, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10)
    ema = ModelEma(model, decay=0.9)
    loss_fn = MultiBoxLoss(
        model.priors_cxcywh, image_size=(96, 96), iou_threshold=0.5, neg_pos_ratio=3.0
    )
    state = TrainingState(model, optimizer, Schedule("none", total_steps=9), scaler, ema)
    return state, loss_fn


def make_batch() -> tuple[torch.Tensor, list[dict]]:
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    boxes = torch.tensor([[8.0, 8.0, 60.0, 70.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1]), "iscrowd": torch.tensor([False])}
    return images, [{**target, "image_id": 11}, {**target, "image_id": 12}]


def all_tensors(state: TrainingState) -> list[torch.Tensor]:
    """Everything a step changes: weights, statistics, average and momentum."""
    models = [*state.model.state_dict().values(), *state.ema.model.state_dict().values()]
    momentum = [entry["momentum_buffer"] for entry in state.optimizer.state.values()]
    return [tensor.clone() for tensor in models + momentum]


@pytest.mark.parametrize("scaled", [False, True], ids=["fp32", "with a scaler"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_step_is_not_taken_and_the_next_one_is(scaled, bad):
    state, loss_fn = make_state(scaled=scaled)
    images, targets = make_batch()
    assert train_step(state, images, targets, loss_fn, options=CPU)[1]
    before = all_tensors(state)
    weight = state.model.classification_headers[0][-1].weight
    kept = weight.detach().clone()
    weight.data.fill_(bad)
    values, is_finite = train_step(state, images, targets, loss_fn, options=CPU)
    assert not is_finite and values["lr"] == 0.01
    assert ("scale" in values) == scaled
    weight.data.copy_(kept)
    after = all_tensors(state)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert train_step(state, images, targets, loss_fn, options=CPU)[1]
    assert any(not torch.equal(a, b) for a, b in zip(before, all_tensors(state), strict=True))


@pytest.mark.parametrize("scale, is_finite", [(1024.0, True), (0.5, False)])
def test_a_scaled_gradient_may_overflow_while_there_is_scale_left(scale, is_finite):
    state, loss_fn = make_state(scaled=True)
    images, targets = make_batch()
    train_step(state, images, targets, loss_fn, options=CPU)
    state.scaler.update(scale)
    before = all_tensors(state)[0]
    # Finite in the forward pass, but its gradient is not.
    state.model.base_net[0][0].weight.register_hook(lambda gradient: gradient * float("inf"))
    assert train_step(state, images, targets, loss_fn, options=CPU)[1] == is_finite
    assert torch.equal(all_tensors(state)[0], before)
    assert state.scaler.get_scale() == scale / 2


def test_everything_is_written_down(tmp_path):
    images, targets = make_batch()
    values = {"loss": float("nan"), "loss_regression": 2.5, "lr": 0.01, "scale": 1024.0}
    line = report_nonfinite(tmp_path, step=7, values=values, images=images, targets=targets)
    assert "step 7 is not finite: loss nan, loss_regression 2.5, lr 0.01, scale 1024" in line
    assert "images 11 12" in line and "nonfinite_step_7.json" in line
    report = json.loads((tmp_path / "nonfinite_step_7.json").read_text())
    assert report["loss"] == "nan" and report["loss_regression"] == 2.5 and report["step"] == 7
    assert report["batch"][1] == {"image_id": 12, "boxes": [[8, 8, 60, 70]], "labels": [1]}
    pixels = torch.load(tmp_path / "nonfinite_step_7.pt", weights_only=True)["images"]
    assert torch.equal(pixels, images)


def test_a_report_that_cannot_be_written_does_not_hide_the_reason(tmp_path):
    images, targets = make_batch()
    values = {"loss": float("inf"), "lr": 0.01}
    options = SimpleNamespace(step=1, values=values, images=images, targets=targets)
    line = report_nonfinite(tmp_path / "absent", **vars(options))
    assert "loss inf" in line and "could not be written (No such file" in line


def test_a_run_stops_with_exit_code_1(trainer, tiny_data, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, *EXPLODE, "--checkpoint-folder", run]
    stopped = trainer.run(*start)
    assert stopped.returncode == 1
    errors = stopped.stderr.splitlines()
    assert errors[-1].startswith("error: step 1 is not finite: loss ")
    assert "Traceback" not in stopped.stderr
    report = json.loads((run / "nonfinite_step_1.json").read_text())
    ids = [item["image_id"] for item in report["batch"]]
    assert f"images {ids[0]} {ids[1]};" in errors[-1]
    for item in report["batch"]:
        assert any(line.startswith(f"image {item['image_id']}: boxes [") for line in errors)


def test_skipping_ends_after_ten_in_a_row_also_across_a_kill(trainer, tiny_data, tmp_path):
    run = tmp_path / "run"
    start = ["--datasets", tiny_data, *RECIPE, *EXPLODE, "--epochs=9", "--on-nonfinite=skip"]
    start += ["--eval-every=0", "--checkpoint-every-steps=1", "--checkpoint-folder", run]
    # Step 0 is taken; steps 1 to 10 are ten in a row.
    killed = trainer.run(*start, plan=At("vision.engine.train.train_step", 7, what="SIGTERM"))
    assert killed.returncode == 128 + signal.SIGTERM
    stopped = trainer.run("--resume", run)
    assert stopped.returncode == 1
    assert "error: 10 steps in a row were not finite; step 10 is" in stopped.stderr
    assert "error: step" not in stopped.stderr
    reports = sorted(int(path.stem.split("_")[2]) for path in run.glob("nonfinite_step_*.json"))
    assert reports == list(range(1, 11))
    records = read_metrics(run)
    assert [record["nonfinite_steps"] for record in records] == [2, 3, 3]
    assert records[0]["loss"] > 0 and records[1]["loss"] is None
