"""The finetune recipe: its flags and defaults, its files, and that the data is only read."""

import json

import pytest
import torch
from script_runs import call, tree
from yolo_factory import BOX, make_folder

import train_mobilenetv2_ssd

# Flags of train_ssd.py are taken too; these make the recipe small.
SMALL = ["--mb2-width-mult=0.25", "--precision=fp32", "--threads=1", "--workers=0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finetune folder with every kind of bad row, as the working directory's."""
    root = tmp_path / "finetune_dataset"
    make_folder(
        root,
        {
            "a.jpg": BOX,
            "b.JPG": f"{BOX}\n2 0.25 0.25 0.2 0.3",
            "c.png": f"7 0.5 0.5 0.1 0.1\n{BOX}",  # a class that is not in classes.txt
            "d.bmp": "",  # no box: dropped from train
            "e.webp": None,  # no label file: dropped from train
        },
        split="train",
    )
    make_folder(root, {"f.jpg": BOX, "g.jpg": "1 0.5 0.5 0.9 0.9", "h.jpg": None})
    monkeypatch.chdir(tmp_path)
    return root


def test_flags_and_defaults_are_the_documents():
    args = train_mobilenetv2_ssd.build_parser().parse_args([])
    assert (
        vars(args).items()
        >= {
            "data_root": "finetune_dataset",
            "train_split": None,
            "val_split": None,
            "image_size": "320",
            "epochs": 50,
            "batch_size": 8,
            "lr": 0.002,
            "output_dir": "runs/mobilenetv2_ssd",
            "weights_backbone": "none",
            "strict_labels": False,
        }.items()
    )
    for flag in ("--weights-backbone=imagenet", "--strict-labels", "--train-split=a.txt"):
        train_mobilenetv2_ssd.build_parser().parse_args([flag])


def test_a_run_with_the_recipes_defaults(folder, tmp_path):
    before = tree(folder)
    flags = ["--epochs=2", "--batch-size=2", "--image-size=96", *SMALL]
    result = call("train_mobilenetv2_ssd", *flags)
    assert (result.code, result.errors) == (0, [])
    assert tree(folder) == before
    run = tmp_path / "runs/mobilenetv2_ssd"
    names = {path.name for path in run.iterdir()}
    assert names >= {"checkpoint_last.pt", "checkpoint_best.pt", "metrics.jsonl", "config.json"}
    config = json.loads((run / "config.json").read_text())
    assert config["arguments"]["net"] == "mb2-ssd" and config["arguments"]["lr"] == 0.002
    assert [config["data"][split]["images"] for split in ("train", "val")] == [3, 3]
    assert [item["name"] for item in config["classes"]] == ["cat", "dog", "bird"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2 and all(0 <= record["AP"] <= 1 for record in records)
    state = torch.load(run / "checkpoint_last.pt", weights_only=True)
    assert "extras.0.0.weight" in state["model"]  # full convolutions, not SSDLite's

    result = call("train_ssd", "--resume", run, "--epochs=3")
    assert (result.code, result.errors) == (0, [])
    assert "3 epochs done" in result.out


def test_split_files_of_the_command_line(folder, tmp_path):
    (tmp_path / "some.txt").write_text("images/a.jpg\nimages/b.JPG\n")
    # A path that does not exist is looked for by its name in images/.
    (tmp_path / "one.txt").write_text("/another/machine/f.jpg\n")
    flags = ["--train-split=some.txt", "--val-split=one.txt", "--output-dir=run", *SMALL]
    result = call("train_mobilenetv2_ssd", *flags, "--epochs=1", "--image-size=96x128")
    assert (result.code, result.errors) == (0, [])
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert [config["data"][split]["images"] for split in ("train", "val")] == [2, 1]
    assert config["arguments"]["image_size"] == [96, 128]


def test_strict_labels_name_file_and_line(folder, tmp_path):
    result = call("train_mobilenetv2_ssd", "--strict-labels", "--output-dir=run", *SMALL)
    assert result.code == 1 and len(result.errors) == 1
    assert "c.txt:1" in result.errors[0]
    assert not (tmp_path / "run").exists()


def test_a_backbone_from_a_file(folder, tmp_path):
    from vision.nn.mobilenet_v2 import build_mobilenet_v2_features

    weights = build_mobilenet_v2_features(width_mult=0.25).state_dict()
    torch.save({f"features.{k}": v for k, v in weights.items()}, "backbone.pth")
    flags = ["--weights-backbone=backbone.pth", "--freeze-base-net", "--output-dir=run", *SMALL]
    result = call("train_mobilenetv2_ssd", *flags, "--epochs=1", "--image-size=96")
    assert (result.code, result.errors) == (0, [])
    trained = torch.load("run/checkpoint_last.pt", weights_only=True)["model"]
    assert all(torch.equal(trained[f"base_net.{k}"], v) for k, v in weights.items())


def test_as_a_process(run_script):
    result = run_script("train_mobilenetv2_ssd.py", "--help", timeout=100)
    assert result.returncode == 0 and result.stderr == ""
    for flag in ("--data-root", "--weights-backbone", "--strict-labels", "--output-dir"):
        assert flag in result.stdout
