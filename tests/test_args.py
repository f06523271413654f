"""The flags: the family's spellings, refusals in one line, and what a run saves of them."""

import json

import pytest

from vision.args import (
    FLAGS,
    RECIPES,
    build_train_parser,
    default_workers,
    parse_train_args,
    recipe_flags,
)
from vision.engine.optim import OPTIMIZERS
from vision.training.saved_args import SAVED, resume_arguments, saved_arguments

NEEDED = ["--datasets", "data", "--checkpoint-folder", "run"]


def flags_as_id(value):
    is_flags = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return " ".join(value) or "nothing" if is_flags else None


def parse(*flags):
    return parse_train_args([*NEEDED, *map(str, flags)])[0]


# ---- recipes


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_the_flags_that_it_names(recipe):
    flags = recipe_flags(recipe, ()).split()
    assert len(flags) == 2 * len(RECIPES[recipe])
    assert saved_arguments(parse("--recipe", recipe)) == saved_arguments(parse(*flags))
    assert parse("--recipe", recipe) != parse()


def test_a_flag_beside_a_recipe_wins():
    args, given = parse_train_args([*NEEDED, "--recipe", "coco", "--lr", "0.1"])
    assert args.lr == 0.1 and args.optimizer == "sgd"
    assert "--lr" not in recipe_flags("coco", given)


@pytest.mark.parametrize(
    ("flags", "augmentation"),
    [
        (["--epochs", 20], "light"),
        (["--epochs", 40], "light"),
        (["--epochs", 41], "ssd"),
        ([], "ssd"),
        (["--epochs", 20, "--augmentation", "flip"], "flip"),
    ],
    ids=flags_as_id,
)
def test_a_short_run_has_lighter_augmentation(flags, augmentation):
    assert parse(*flags).augmentation == augmentation


def test_resuming_takes_no_recipe(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_train_args(["--resume", "run", "--recipe", "coco"])
    assert "--recipe is for a new run" in capsys.readouterr().err


# ---- spellings


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--num-epochs", "7"], "epochs", 7),
        (["--num_epochs=7"], "epochs", 7),
        (["--num-workers", "3"], "workers", 3),
        (["--num_workers", "3"], "workers", 3),
        (["--batch_size", "9"], "batch_size", 9),
        (["--learning-rate", "0.5"], "lr", 0.5),
        (["--learning_rate=0.5"], "lr", 0.5),
        (["--base_net_lr", "0.5"], "base_net_lr", 0.5),
        (["--extra_layers_lr", "0.5"], "extra_layers_lr", 0.5),
        (["--dataset_type", "yolo"], "dataset_type", "yolo"),
        (["--dataset_type=yolo"], "dataset_type", "yolo"),
        (["--model-dir", "elsewhere"], "checkpoint_folder", "elsewhere"),
        (["--checkpoint_folder=a_b"], "checkpoint_folder", "a_b"),
        (["--validation-epochs", "2"], "eval_every", 2),
        (["--resolution", "320"], "image_size", (320, 320)),
        (["--mb2_width_mult", "0.5"], "mb2_width_mult", 0.5),
        (["--freeze_base_net"], "freeze_base_net", True),
        (["--freeze_net"], "freeze_net", True),
        (["--no-freeze-net"], "freeze_net", False),
        (["--scheduler", "multi-step", "--milestones", "3", "4.5"], "milestones", (3.0, 4.5)),
        (["--weight_decay", "0"], "weight_decay", 0.0),
        (["--image-size", "300"], "image_size", (300, 300)),
        (["--image-size", "256x384"], "image_size", (256, 384)),
        (["--image_size=256X384"], "image_size", (256, 384)),
    ],
    ids=flags_as_id,
)
def test_spellings(flags, name, value):
    assert getattr(parse(*flags), name) == value


@pytest.mark.parametrize("flag", ["--data", "--dataset", "--datasets"])
def test_data_sets_are_absolute_paths_and_may_be_several(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, _ = parse_train_args([flag, "none", "/two", "--checkpoint-folder", "run"])
    assert args.datasets == (str(tmp_path / "none"), "/two")  # a folder, whatever its name


def test_base_net_words_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [parse("--base-net", word).base_net for word in ("none", "imagenet", "b.pth")]
    assert words == ["none", "imagenet", str(tmp_path / "b.pth")]


def test_names_that_were_given():
    _, given = parse_train_args([*NEEDED, "--num_epochs=30", "--lr", "0.01", "--no-tensorboard"])
    assert given == {"datasets", "checkpoint_folder", "epochs", "lr", "tensorboard"}


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.0004), ("sgd", 0.001)])
def test_vgg16_has_a_tenth_of_the_rate_unless_given(optimizer, lr):
    flags = ["--net=vgg16-ssd", "--optimizer", optimizer]
    assert parse(*flags).lr == pytest.approx(lr)
    assert parse(*flags, "--lr=0.5").lr == 0.5
    text = build_train_parser().format_help()
    assert "0.1 of that for vgg16-ssd" in " ".join(text.split())


RATE_AND_DECAY = {"sgd": (0.01, 5e-4), "adam": (0.002, 0.0), "adamw": (0.004, 0.01)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rate_and_decay_follow_the_optimizer_unless_given(optimizer):
    args = parse("--optimizer", optimizer)
    assert (args.lr, args.weight_decay) == RATE_AND_DECAY[optimizer]
    args = parse("--optimizer", optimizer, "--lr=0.5", "--weight-decay=0")
    assert (args.lr, args.weight_decay) == (0.5, 0)


# ---- refusals


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch-size", "1"], "--batch-size"),
        (["--batch-size", "0"], "--batch-size"),
        (["--batch-size", "1" + "0" * 400], "--batch-size"),
        (["--epochs", "1" + "0" * 400], "--epochs"),
        (["--keep-last", "1" + "0" * 40], "--keep-last"),
        (["--warmup-epochs", "1e308"], "--warmup-epochs"),
        (["--threads", "99999999999"], "--threads"),
        (["--workers", "1025"], "--workers"),
        (["--batch-size", "two"], "--batch-size"),
        (["--epochs", "0"], "--epochs"),
        (["--lr", "0"], "--lr"),
        (["--lr", "-1"], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "inf"], "--lr"),
        (["--base-net-lr", "-0.1"], "--base-net-lr"),
        (["--extra-layers-lr", "nan"], "--extra-layers-lr"),
        (["--momentum", "1"], "--momentum"),
        (["--momentum", "-0.1"], "--momentum"),
        (["--weight-decay", "-1"], "--weight-decay"),
        (["--weight-decay", "inf"], "--weight-decay"),
        (["--gamma", "0"], "--gamma"),
        (["--milestones", "-3"], "--milestones"),
        (["--milestones", "nan"], "--milestones"),
        (["--warmup-epochs", "-1"], "--warmup-epochs"),
        (["--warmup-epochs", "inf"], "--warmup-epochs"),
        (["--clip-grad-norm", "-1"], "--clip-grad-norm"),
        (["--ema", "1"], "--ema"),
        (["--ema", "-0.1"], "--ema"),
        (["--iou-threshold", "0"], "--iou-threshold"),
        (["--iou-threshold", "1.5"], "--iou-threshold"),
        (["--neg-pos-ratio", "0"], "--neg-pos-ratio"),
        (["--mb2-width-mult", "0"], "--mb2-width-mult"),
        (["--mb2-width-mult", "0.01"], "--mb2-width-mult"),
        (["--workers", "-1"], "--workers"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**64)], "--seed"),
        (["--threads", "-1"], "--threads"),
        (["--keep-last", "-1"], "--keep-last"),
        (["--eval-every", "-1"], "--eval-every"),
        (["--patience", "-1"], "--patience"),
        (["--max-hours", "-1"], "--max-hours"),
        (["--patience", "3", "--eval-every", "0"], "--patience"),
        (["--checkpoint-every-steps", "-1"], "--checkpoint-every-steps"),
        (["--checkpoint-every-minutes", "-1"], "--checkpoint-every-minutes"),
        (["--overfit", "-1"], "--overfit"),
        (["--overfit", "1"], "--overfit"),
        (["--image-size", "big"], "--image-size"),
        (["--image-size", "300x"], "--image-size"),
        (["--image-size", "300x300x3"], "--image-size"),
        (["--image-size", "0"], "--image-size"),
        (["--prior-sizes", "0.1", "0.2"], "--prior-sizes: mb2-ssd-lite takes 7"),
        (["--net=mb2-ssd-lite-fpn", "--prior-sizes", *"1234567"], "fpn takes 8 growing sizes"),
        (["--net", "yolo"], "--net"),
        (["--optimizer", "lion"], "--optimizer"),
        (["--scheduler", "linear"], "--scheduler"),
        (["--augmentation", "strong"], "--augmentation"),
        (["--dataset-type", "csv"], "--dataset-type"),
        (["--precision", "fp8"], "--precision"),
        (["--on-nonfinite", "ignore"], "--on-nonfinite"),
        (["--on-save-error", "ignore"], "--on-save-error"),
        (["--val-json", "a.json"], "--val-images"),
        (["--val-json", "a", "b", "c", "--val-images", "d", "e"], "one for each file"),
        (["--val-json=a", "--val-images=d", "--validation-dataset=v"], "--validation-dataset"),
        (["--force-override"], "--force-override"),
        (["--unheard-of", "3"], "--unheard-of"),
        (["--epochs"], "--epochs"),
    ],
    ids=flags_as_id,
)
def test_refusals_name_the_flag_in_one_line(flags, named, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(*flags)
    assert exit_info.value.code == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith("train_ssd.py: error: ") and named in output.err


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--checkpoint-folder"),
        (["--checkpoint-folder", "run"], "--datasets"),
        (["--datasets", "data"], "--checkpoint-folder"),
        (["--dry-run"], "--datasets"),
        (["--resume", "run", "--dry-run"], "--resume"),
        (["--resume", "run", "--overfit", "8"], "--resume"),
        (["--resume", "run", "--checkpoint-folder", "other"], "--checkpoint-folder"),
    ],
    ids=flags_as_id,
)
def test_what_is_missing_or_does_not_go_together(argv, named, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_train_args(argv)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_dry_run_and_overfit_need_no_run_folder():
    for flags in (["--dry-run"], ["--overfit", "8"]):
        args, _ = parse_train_args(["--datasets", "data", *flags])
        assert args.checkpoint_folder is None


# ---- what a run saves


EVERYTHING = [
    "--dataset-type=yolo", "--train-split=a.txt", "--val-split=b.txt", "--strict-labels",
    "--train-json", "a.json", "b.json", "--train-images=c", "--boxes=xyxy", "--label-format=pose",
    "--use-difficult", "--one-based", "--balance-data",
    "--augmentation=light", "--resize=linear", "--tiles=2", "--cache=disk", "--workers=3",
    "--net=mb2-ssd", "--image-size=256x384", "--box-voting=0.7",
    "--mb2-width-mult=0.5", "--priors=default",
    "--prior-sizes", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7",
    "--base-net=imagenet", "--pretrained-ssd=c.pth", "--freeze-base-net", "--freeze-net",
    "--epochs=7", "--batch-size=9", "--optimizer=adamw", "--lr=0.125", "--base-net-lr=1e-05",
    "--extra-layers-lr=0.25", "--momentum=0.8", "--weight-decay=0", "--scheduler=multi-step",
    "--warmup-epochs=0.5", "--milestones", "2", "3.5", "--gamma=0.3", "--clip-grad-norm=2",
    "--ema=0.99", "--iou-threshold=0.45", "--neg-pos-ratio=2", "--seed=12",
    "--on-nonfinite=skip", "--precision=fp32", "--threads=1", "--eval-every=2",
    "--checkpoint-every-steps=5", "--checkpoint-every-minutes=1.5", "--keep-last=2",
    "--on-save-error=continue", "--tensorboard", "--device=cpu", "--val-json=v.json",
    "--val-images=v",
    "--sync-bn", "--no-report", "--patience=3", "--max-hours=8", "--min-precision=0.9",
    "--logger", "tensorboard",
]  # fmt: skip


@pytest.mark.parametrize("flags", [[], EVERYTHING], ids=["defaults", "everything"])
def test_saved_arguments_come_back_through_json(flags):
    args = parse(*flags)
    saved = json.loads(json.dumps(saved_arguments(args)))
    given_args, given = parse_train_args(["--resume", "run"])
    merged, changes = resume_arguments(saved, given_args, given)
    assert changes == {}
    for name in SAVED:
        assert getattr(merged, name) == getattr(args, name), name
    assert merged.resume == "run" and merged.checkpoint_folder is None


def test_every_flag_is_in_the_round_trip_above():
    given = parse_train_args([*NEEDED, *EVERYTHING])[1]
    assert set(SAVED) == given & set(SAVED) | {"validation_dataset"}  # which --val-json replaces


@pytest.mark.parametrize("argv", [["--lr", "0.01"], ["--net=mb2-ssd-lite", "--batch-size", "16"]])
def test_a_flag_with_its_saved_value_is_no_override(argv):
    saved = saved_arguments(parse("--lr=1e-2", "--batch_size=16"))
    args, given = parse_train_args(["--resume", "run", *argv])
    assert resume_arguments(saved, args, given)[1] == {}


# ---- the parser


def test_the_parser_has_the_declared_flags_and_defaults():
    actions = {a.dest: a for a in build_train_parser()._actions if a.dest != "help"}
    assert list(actions) == list(FLAGS)
    for name, action in actions.items():
        assert action.default == FLAGS[name].default and action.help


@pytest.mark.parametrize(
    ("cores", "has_gpu", "processes", "expected"),
    [
        (1, False, 1, 0),
        (2, False, 1, 0),
        (4, False, 2, 0),
        (4, False, 1, 2),
        (64, False, 1, 8),
        (1, True, 1, 1),
        (2, True, 1, 1),
        (8, True, 1, 4),
    ],
)
def test_workers_unless_told(monkeypatch, cores, has_gpu, processes, expected):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_workers() == expected
