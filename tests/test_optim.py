"""Parameter groups, freezing, and the learning rate by hand."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from small_networks import build_small
from torch.optim import SGD, Adam, AdamW

from vision.engine.ema import ModelEma
from vision.engine.optim import (
    SCHEDULERS,
    Schedule,
    build_optimizer,
    freeze,
    set_train_mode,
)
from vision.engine.state import TrainingState
from vision.engine.step import StepOptions, train_step
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import MODELS, build_model
from vision.training.resume import _log_rate_change

RATES = {"lr": 0.01, "base_net_lr": None, "extra_layers_lr": None}


@pytest.fixture
def model():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small only waits for more
    torch.manual_seed(0)
    yield build_model("mb2-ssd-lite", num_classes=3, image_size=(96, 96), width_mult=0.25)
    torch.set_num_threads(threads)


def build_sgd(model, **rates):
    return build_optimizer("sgd", model, **{**RATES, **rates}, weight_decay=1e-4)


# ---- groups


@pytest.mark.parametrize("net", MODELS)
def test_groups_hold_every_parameter_once(net):
    model = build_small(net)
    groups = build_sgd(model, base_net_lr=0.001, extra_layers_lr=0.02).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("base_net", 0.001),
        ("extra_layers", 0.02),
        ("heads", 0.01),
    ]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}
    heads = [*model.regression_headers, *model.classification_headers]
    in_heads = {id(p) for head in heads for p in head.parameters()}
    assert {id(p) for p in groups[2]["params"]} == in_heads


def test_rates_default_to_lr_and_zero_is_a_rate(model):
    assert {group["lr"] for group in build_sgd(model).param_groups} == {0.01}
    rates = [group["lr"] for group in build_sgd(model, base_net_lr=0.0).param_groups]
    assert rates == [0.0, 0.01, 0.01]


@pytest.mark.parametrize(
    ("name", "kind", "momentum"), [("sgd", SGD, 0.8), ("adam", Adam, None), ("adamw", AdamW, None)]
)
def test_optimizers(model, name, kind, momentum):
    optimizer = build_optimizer(name, model, **RATES, momentum=0.8, weight_decay=0.3)
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 0.3 and group.get("momentum") == momentum
        assert group["base_lr"] == group["lr"] == 0.01


@pytest.mark.parametrize(
    ("name", "key"), [("adamw", "exp_avg"), ("adamw", "step"), ("sgd", "momentum_buffer")]
)
@pytest.mark.parametrize("moment", [torch.zeros(2), "x"])
def test_moments_of_another_shape_are_refused(model, name, key, moment):
    """The fused optimizers do not look at their size: they would write beyond their end."""
    optimizer = build_optimizer(name, model, **RATES, momentum=0.8, weight_decay=0.3)
    step(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, Schedule("none", 10), scaler)
    saved = copy.deepcopy(state.state_dict(config={}, classes=[]))
    state.load_state_dict(saved)
    saved["optimizer"]["state"][0][key] = moment
    with pytest.raises(ValueError, match=f"the optimizer's '{key}' of parameter 0 was edited"):
        state.load_state_dict(saved)


@pytest.mark.parametrize("saved", [{"total_steps": "x"}, {"kind": "multi-step", "gamma": 1e308}])
def test_a_schedule_that_was_edited_is_passed_over(saved, caplog):
    saved = {"kind": "cosine", "total_steps": 4, "milestones": [0, 0], "gamma": 0.1} | saved
    start = SimpleNamespace(checkpoint={"scheduler": saved})
    state = SimpleNamespace(epoch=1, progress={"batches": 0}, schedule=Schedule("none", 9))
    _log_rate_change(state, start, steps_per_epoch=2)
    assert not caplog.records


# ---- freezing


def step(model, optimizer, *, ema=None):
    """One training step on two images, one without boxes."""
    loss_fn = MultiBoxLoss(model.priors_cxcywh, image_size=model.image_size)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(model, optimizer, Schedule("none", 10), scaler, ema)
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    targets = [
        {
            "boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]),
            "labels": torch.tensor([2]),
            "iscrowd": torch.tensor([False]),
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "iscrowd": torch.zeros(0, dtype=torch.bool),
        },
    ]
    set_train_mode(model)
    options = StepOptions(torch.device("cpu"), "fp32")
    _, is_finite = train_step(state, images, targets, loss_fn, options=options)
    assert is_finite


@pytest.mark.parametrize(
    ("all_but_heads", "frozen", "groups"),
    [
        (None, (), ["base_net", "extra_layers", "heads"]),
        (False, ("base_net",), ["extra_layers", "heads"]),
        (True, ("base_net", "extras"), ["heads"]),
    ],
    ids=["nothing", "base net", "all but heads"],
)
def test_frozen_layers_keep_weights_and_batchnorm_statistics(model, all_but_heads, frozen, groups):
    if all_but_heads is not None:
        freeze(model, all_but_heads=all_but_heads)
    optimizer = build_sgd(model)
    assert [group["name"] for group in optimizer.param_groups] == groups
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, optimizer)
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert not any(name.startswith(frozen) for name in changed)
    # A bias may stay: it starts at 0, and a head without positives gives it no gradient.
    kinds = (".weight", ".running_mean", ".running_var", ".num_batches_tracked")
    trained = {n for n in before if n.endswith(kinds) and not n.startswith(frozen)}
    assert trained <= changed


def test_train_mode_is_restored_after_evaluation(model):
    freeze(model, all_but_heads=False)
    model.eval()
    set_train_mode(model)
    assert not model.base_net[0][1].training and model.extras[0].conv[1].training


# ---- schedule


def rates(schedule, steps):
    return [schedule.factor(step) for step in steps]


def test_warm_up_by_hand():
    schedule = Schedule("none", 100, warmup_steps=4)
    assert rates(schedule, range(6)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_by_hand():
    schedule = Schedule("cosine", 12, warmup_steps=4)
    halves = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates(schedule, range(4, 12)) == pytest.approx(halves)
    assert schedule.factor(4) == 1.0 and schedule.factor(8) == pytest.approx(0.5)
    assert schedule.factor(12) == schedule.factor(500) == 0.0


def test_cosine_without_warm_up_starts_at_the_full_rate_and_ends_above_0():
    schedule = Schedule("cosine", 1000)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(999) == pytest.approx((math.pi / 2000) ** 2, rel=1e-3)


def test_multi_step_by_hand():
    schedule = Schedule("multi-step", 100, milestones=(5, 8), gamma=0.1)
    steps, factors = [0, 4, 5, 7, 8, 99], [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert rates(schedule, steps) == pytest.approx(factors)


def test_multi_step_after_warm_up():
    schedule = Schedule("multi-step", 100, warmup_steps=3, milestones=(1, 8), gamma=0.5)
    assert rates(schedule, [0, 2, 3, 8]) == pytest.approx([0.25, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (2, 1), (7, 7)])
def test_the_shortest_runs_have_rates(kind, total, warmup):
    schedule = Schedule(kind, total, warmup_steps=warmup, milestones=(1,))
    assert all(0 < schedule.factor(step) <= 1 for step in range(total))


def test_apply_sets_each_group_from_its_base_rate(model):
    optimizer = build_sgd(model, base_net_lr=0.001)
    schedule = Schedule("multi-step", 10, milestones=(2,), gamma=0.1)
    for step_number, factor in ((0, 1), (2, 0.1), (9, 0.1), (1, 1)):  # in any order
        schedule.apply(optimizer, step_number)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.001 * factor, 0.01 * factor, 0.01 * factor])


def test_a_rate_of_zero_takes_no_step_but_the_average_follows(model):
    optimizer = build_sgd(model)
    Schedule("cosine", 5).apply(optimizer, 5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    ema = ModelEma(model, decay=0.9)
    step(model, optimizer, ema=ema)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # BatchNorm's statistics moved, and the average with them.
    averaged = ema.model.state_dict()["base_net.0.1.running_mean"]
    assert not torch.equal(averaged, torch.zeros_like(averaged))
