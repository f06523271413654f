"""What --resume may change, flag by flag."""

import re

import pytest
from conftest import ROOT

from vision.args import FLAGS, parse_train_args
from vision.command_line import flag_of
from vision.training import saved_args
from vision.training.saved_args import (
    SAVED,
    check_same_run,
    resume_arguments,
    saved_arguments,
)

START = ["--datasets", "/data", "--checkpoint-folder", "/run", "--image-size", "300"]
# A value other than the default for every flag.
OTHER = {
    "dataset_type": "yolo", "datasets": "/b", "validation_dataset": "/v", "train_split": "/t.txt",
    "val_split": "/v.txt", "strict_labels": True, "augmentation": "light",
    "resize": "point", "tiles": 2, "box_voting": 0.7, "cache": "ram",
    "workers": 7, "train_json": ["/a.json"], "train_images": ["/a"], "val_json": ["/v.json"],
    "val_images": ["/v"], "boxes": "xyxy", "label_format": "pose", "use_difficult": True,
    "one_based": True, "balance_data": True,
    "net": "mb2-ssd", "priors": "fit", "image_size": "96x128", "mb2_width_mult": 0.5,
    "prior_sizes": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], "base_net": "/w.pth",
    "pretrained_ssd": "/p.pth", "freeze_base_net": True, "freeze_net": True, "epochs": 60,
    "batch_size": 8, "optimizer": "adam", "lr": 0.2, "base_net_lr": 0.3, "extra_layers_lr": 0.4,
    "momentum": 0.5, "weight_decay": 0.1, "scheduler": "none", "warmup_epochs": 3.0,
    "milestones": [3.0, 4.0], "gamma": 0.5, "clip_grad_norm": 1.0, "ema": 0.9,
    "iou_threshold": 0.45, "neg_pos_ratio": 2.0, "seed": 5, "on_nonfinite": "skip",
    "precision": "bf16", "threads": 3, "eval_every": 2, "checkpoint_every_steps": 10,
    "checkpoint_every_minutes": 5.0, "keep_last": 3, "on_save_error": "continue",
    "tensorboard": True, "logger": ["tensorboard"], "report": False, "device": "cpu",
    "sync_bn": True, "patience": 4, "max_hours": 2.0, "min_precision": 0.9,
}  # fmt: skip
MAY_CHANGE = {
    "epochs", "workers", "device", "tensorboard", "logger", "report", "checkpoint_every_steps",
    "checkpoint_every_minutes", "keep_last", "on_save_error", "base_net", "pretrained_ssd",
    "dataset_type", "datasets", "validation_dataset", "train_split", "val_split",
    "train_json", "train_images", "val_json", "val_images", "boxes", "label_format",
    "use_difficult", "one_based", "patience", "max_hours",
    "min_precision",
}  # fmt: skip


def saved(*flags: str) -> dict:
    """The arguments that config.json keeps of a run started with these flags."""
    return saved_arguments(parse_train_args([*START, *flags])[0])


def resume(arguments: dict, *flags: str):
    args, given = parse_train_args(["--resume", "/run", *flags])
    return resume_arguments(arguments, args, given)


def written(name: str) -> list[str]:
    """The flag with its other value, as on a command line, and the one that belongs to it."""
    part = name.rpartition("_")
    if part[2] in ("json", "images"):
        return [word for end in ("json", "images") for word in _written(f"{part[0]}_{end}")]
    return _written(name)


def _written(name: str) -> list[str]:
    value = OTHER[name]
    if value is True:
        return [flag_of(name)]
    if value is False:
        return [flag_of(f"no_{name}")]
    return [flag_of(name), *map(str, value if isinstance(value, list) else [value])]


def test_the_page_names_the_flags_that_may_change():
    page = (ROOT / "docs/resume.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `--")]
    named = {flag for row in rows for flag in re.findall("`(--[a-z-]+)`", row.split("|")[1])}
    not_saved = {"--profile", "--checkpoint-folder", "--dry-run", "--overfit"}
    assert named == {flag_of(name) for name in MAY_CHANGE} | {"--cache"} | not_saved


def test_the_table_covers_every_saved_flag():
    assert OTHER.keys() == set(SAVED) and list(saved()) == SAVED
    assert saved_args.MAY_CHANGE == MAY_CHANGE


@pytest.mark.parametrize("name", sorted(OTHER))
def test_each_flag_changes_or_is_refused_with_both_values(name):
    before = saved("--dataset-type=yolo") if name.endswith(("_split", "labels")) else saved()
    after = parse_train_args(["--resume", "/run", *written(name)])[0]
    old, new = before[name], saved_arguments(after)[name]
    assert old != new
    if name in MAY_CHANGE:
        args, changes = resume(before, *written(name))
        assert saved_arguments(args)[name] == new and changes.pop(name) == [old, new]
        assert set(changes) <= {name.replace("json", "images"), name.replace("images", "json")}
        return
    with pytest.raises(ValueError) as refusal:
        resume(before, *written(name))
    assert f"{flag_of(name)} was {old} in this run and is {new} now" in str(refusal.value)
    args, changes = resume(before, *written(name), "--force-override")
    assert saved_arguments(args)[name] == new and changes == {name: [old, new]}


@pytest.mark.parametrize("name", sorted(OTHER))
def test_the_saved_value_is_no_override(name):
    before = saved("--dataset-type=yolo", *written(name))
    args, changes = resume(before, *written(name))
    assert changes == {} and saved_arguments(args)[name] == before[name]


@pytest.mark.parametrize(("old", "new"), [("ram", "disk"), ("disk", "ram")])
def test_kept_images_may_move_between_memory_and_disk(old, new):
    args, changes = resume(saved(f"--cache={old}"), f"--cache={new}")
    assert args.cache == new and changes == {"cache": [old, new]}
    with pytest.raises(ValueError, match=f"--cache was {old} in this run and is none now"):
        resume(saved(f"--cache={old}"), "--cache=none")


def test_without_flags_everything_is_as_saved():
    names = sorted(OTHER.keys() - {"validation_dataset"})  # --val-json stands for it
    flags = [word for name in names for word in written(name)]
    before = saved(*flags)
    args, changes = resume(before)
    assert changes == {} and saved_arguments(args) == before


def test_all_refused_flags_are_named():
    with pytest.raises(ValueError, match=r"--lr was 0\.1 .* is 0\.2 now; --seed was 0 .* is 5"):
        resume(saved("--lr=0.1"), "--lr=0.2", "--seed=5", "--workers=3")


def test_the_familys_spelling_counts_as_the_same_flag():
    before = saved("--lr=0.1", "--epochs=20")
    args, changes = resume(before, "--num_epochs=50", "--learning-rate=0.1")
    assert args.epochs == 50 and changes == {"epochs": [20, 50]}


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_folder": "/etc"},
        {"no_such_flag": 1},
        {"net": "mb9"},
        {"epochs": "many"},
        {"epochs": -1},
        {"image_size": [1]},
        {"datasets": ["/d", "--resume=/etc"]},
        {"optimizer": ["sgd", "adam"]},
        {"lr": 10**400},
        {"batch_size": None},
    ],
    ids=lambda change: str(change),
)
def test_a_strangers_config_is_checked_like_a_command_line(change):
    arguments = saved() | change
    if change == {"batch_size": None}:
        assert resume(arguments)[0].batch_size == 16
        return
    with pytest.raises(ValueError):
        resume(arguments)


@pytest.mark.parametrize(
    "flags",
    [
        ["--resume", "/run", "--dry-run"],
        ["--resume", "/run", "--overfit", "3"],
        ["--resume", "/run", "--checkpoint-folder", "/other"],
        ["--datasets", "/d", "--checkpoint-folder", "/r", "--force-override"],
        ["--datasets", "/d"],
        ["--datasets", "/d", "--checkpoint-folder", "/r", "--lr", "nan"],
    ],
    ids=" ".join,
)
def test_flags_that_do_not_go_together_are_wrong_usage(flags, capsys):
    with pytest.raises(SystemExit) as exit:
        parse_train_args(flags)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("train_ssd.py: error: --")


def test_a_checkpoint_of_another_run_is_refused():
    config = {"arguments": saved(), "classes": [{"name": "cat"}], "history": []}
    other = {
        "config": {"arguments": saved("--seed=4", "--workers=9")},
        "classes": [{"name": "cat"}],
    }
    with pytest.raises(ValueError, match=r"x\.pt: a checkpoint of another run, with --seed 4 inst"):
        check_same_run(config, "x.pt", other)
    config["history"] = [{"changes": {"seed": [4, 0]}}]  # it was changed on the way: the same run
    check_same_run(config, "x.pt", other)
    with pytest.raises(ValueError, match=r"x\.pt: a checkpoint of another run, its classes"):
        check_same_run(config, "x.pt", other | {"classes": [{"name": "dog"}]})


def test_every_flag_is_saved_or_says_what_this_call_is_to_do():
    not_saved = {"checkpoint_folder", "resume", "force_override", "profile", "dry_run", "overfit"}
    not_saved.add("recipe")  # saved as the flags it stands for
    assert FLAGS.keys() - set(SAVED) == not_saved
