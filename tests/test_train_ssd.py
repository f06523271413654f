"""train_ssd.py as a user runs it: tiny networks on the sample set, everything it writes."""

import json
import math
import shutil

import cv2
import numpy as np
import pytest
import torch
from script_runs import FAST, call

from vision.datasets.sample import write_sample_dataset

NAMES = ["circle", "square", "triangle", "star"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """5 train images, so that a batch of 4 leaves one, and 4 val images."""
    root = tmp_path_factory.mktemp("sample")
    write_sample_dataset(root, num_train=5, num_val=4, image_size=(90, 120))
    return root


def train(root, run, *flags):
    """Train, and return what was logged."""
    result = call("train_ssd", "--datasets", root, "--checkpoint-folder", run, *FAST, *flags)
    assert (result.code, result.errors) == (0, [])
    return result.err


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def results(run):
    """The metrics without timings."""
    timings = ("seconds", "images_per_second", "data_wait", "_share", "peak_memory_mb")
    return [{k: v for k, v in r.items() if not k.endswith(timings)} for r in read_metrics(run)]


def weights(run):
    return torch.load(run / "checkpoint_last.pt", weights_only=True)["model"]


def assert_same_run(run, other):
    assert results(run) == results(other)
    own = weights(run)
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights(other).items())


# ---- everything a run writes


@pytest.fixture(scope="module")
def finished(sample, tmp_path_factory, run_script):
    run = tmp_path_factory.mktemp("runs") / "deep/run"
    flags = [*FAST, "--epochs=2", "--workers=1", "--ema=0.9"]
    process = run_script(
        "train_ssd.py", "--datasets", sample, "--checkpoint-folder", run, *flags, timeout=120
    )
    return run, process


def test_results_on_stdout_and_logs_on_stderr(finished):
    run, process = finished
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[-1] == f"{run}: 2 epochs done" and "checkpoint_best.pt" in lines[-2]
    for text in ("train: 5 images", "val: 4 images", "mb2-ssd-lite at 96x96", "epoch 2/2, loss"):
        assert text in process.stderr
    assert "\r" not in process.stderr and "%|" not in process.stderr  # no bar off a terminal


def test_files_of_the_run_folder(finished):
    run, _ = finished
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint_best.pt", "checkpoint_epoch_0001.pt", "checkpoint_epoch_0002.pt",
        "checkpoint_last.pt", "config.json", "labels.txt", "metrics.jsonl", "run.lock",
    ]  # fmt: skip
    assert (run / "labels.txt").read_text().split() == ["BACKGROUND", *NAMES]
    last, best = run / "checkpoint_last.pt", run / "checkpoint_best.pt"
    assert last.samefile(run / "checkpoint_epoch_0002.pt")
    epoch = max(read_metrics(run), key=lambda record: record["AP"])["epoch"]
    assert best.samefile(run / f"checkpoint_epoch_{epoch:04d}.pt")


def test_keys_of_metrics(finished):
    records = read_metrics(finished[0])
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 1), (2, 2)]
    for record in records:
        assert record.keys() >= {
            "epoch", "step", "lr", "loss", "loss_classification", "loss_regression",
            "val_loss", "val_loss_classification", "val_loss_regression",
            "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
            "images_per_second", "data_wait", "seconds",
        }  # fmt: skip
        numbers = [value for value in record.values() if value is not None]
        assert all(math.isfinite(number) for number in numbers)
        assert 0 <= record["AP"] <= record["AP50"] <= 1 and 0 <= record["data_wait"] <= 1
        parts = record["loss_classification"] + record["loss_regression"]
        assert record["loss"] == pytest.approx(parts)


def test_keys_of_a_checkpoint(finished):
    run, _ = finished
    state = torch.load(run / "checkpoint_epoch_0001.pt", weights_only=True)
    assert state.keys() >= {
        "format", "model", "optimizer", "scheduler", "scaler", "ema", "rng", "epoch", "step",
        "best", "config", "classes",
    }  # fmt: skip
    assert (state["epoch"], state["step"]) == (1, 1)
    assert state["ema"].keys() == state["model"].keys()
    assert state["classes"] == [
        {"label": i, "category_id": c, "original_category_id": c, "name": name}
        for i, (c, name) in enumerate(zip((1, 2, 4, 9), NAMES, strict=True), start=1)
    ]


def test_config_has_every_argument_and_the_versions(finished, sample):
    config = json.loads((finished[0] / "config.json").read_text())
    arguments = config["arguments"]
    assert arguments["datasets"] == [str(sample)] and arguments["image_size"] == [96, 96]
    assert (arguments["epochs"], arguments["ema"], arguments["seed"]) == (2, 0.9, 0)
    assert config["versions"]["torch"] == torch.__version__ and config["history"] == []
    assert config["classes"][3]["original_category_id"] == 9


# ---- data


def test_original_and_fixed_annotations_give_the_same_losses_and_ap(sample, tmp_path):
    fixed = tmp_path / "fixed"
    shutil.copytree(sample, fixed)
    assert call("fix_coco_annotations", "--path", fixed).code == 0
    runs = tmp_path / "runs/original", tmp_path / "runs/fixed"
    for root, run in zip((sample, fixed), runs, strict=True):
        train(root, run, "--epochs=2")
    assert_same_run(*runs)
    classes = [torch.load(r / "checkpoint_last.pt", weights_only=True)["classes"] for r in runs]
    ids = [[(c["category_id"], c["original_category_id"]) for c in items] for items in classes]
    assert ids == [[(1, 1), (2, 2), (4, 4), (9, 9)], [(0, 1), (1, 2), (2, 4), (3, 9)]]


def test_several_data_sets_are_joined(sample, tmp_path):
    other = tmp_path / "other"
    write_sample_dataset(other, num_train=4, num_val=2, seed=1, image_size=(60, 80))
    run = tmp_path / "run"
    train(sample, run, "--datasets", sample, other)
    config = json.loads((run / "config.json").read_text())
    assert [config["data"][split]["images"] for split in ("train", "val")] == [9, 6]
    assert read_metrics(run)[0]["step"] == 2  # 4 and 5 images: the last one joins


def test_without_a_val_split_it_trains_without_ap(sample, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(sample, root)
    (root / "annotations/instances_val2017.json").unlink()
    run = tmp_path / "run"
    assert "no val split" in train(root, run)
    assert "AP" not in read_metrics(run)[0] and not (run / "checkpoint_best.pt").exists()


def test_val_split_of_another_folder(sample, tmp_path):
    other = tmp_path / "other"
    write_sample_dataset(other, num_train=4, num_val=2, seed=1, image_size=(60, 80))
    train(sample, tmp_path / "run", "--validation-dataset", other)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert [config["data"][split]["images"] for split in ("train", "val")] == [5, 2]


def to_yolo(coco_root, root):
    """Write a COCO data set as a YOLO folder."""
    (root / "labels").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "splits").mkdir()
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    for split in ("train", "val"):
        path = coco_root / f"annotations/instances_{split}2017.json"
        content = json.loads(path.read_text())
        classes = {category["id"]: i for i, category in enumerate(content["categories"])}
        for image in content["images"]:
            name, w, h = image["file_name"], image["width"], image["height"]
            shutil.copy(coco_root / f"{split}2017" / name, root / "images")
            rows = [
                (classes[a["category_id"]], (x + bw / 2) / w, (y + bh / 2) / h, bw / w, bh / h)
                for a in content["annotations"]
                if a["image_id"] == image["id"]
                for x, y, bw, bh in [a["bbox"]]
            ]
            text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
            (root / "labels" / f"{name.removesuffix('.jpg')}.txt").write_text(text)
        names = "".join(f"{image['file_name']}\n" for image in content["images"])
        (root / f"splits/{split}.txt").write_text(names)
    return root


def evaluate(model, root) -> tuple[str, str]:
    """metrics.json as printed, and what was logged."""
    result = call("eval_ssd", "--trained-model", model, "--dataset", root, "--workers=0", "--json")
    assert result.code == 0, result.err
    return result.out, result.err


def test_yolo_folder_is_trained_and_measured_as_its_conversion_and_only_read(sample, tmp_path):
    root, runs = to_yolo(sample, tmp_path / "yolo"), tmp_path / "runs"
    before = sorted(root.rglob("*"))
    assert f"{root}: YOLO layout (classes.txt, " in train(root, runs / "direct")
    metrics, log = evaluate(runs / "direct", root)
    assert f"{root}: YOLO layout" in log and json.loads(metrics)["per_class"].keys() == set(NAMES)
    assert sorted(root.rglob("*")) == before

    assert call("convert_yolo_to_coco", "--data-root", root).code == 0
    assert "COCO layout (annotations/" in train(root, runs / "converted")
    assert_same_run(runs / "direct", runs / "converted")
    measured, log = evaluate(runs / "direct", root)
    assert measured == metrics and "COCO layout" in log


def test_a_run_that_recorded_its_layout_goes_on(sample, tmp_path):
    root, run = to_yolo(sample, tmp_path / "yolo"), tmp_path / "run"
    train(root, run, "--dataset-type=yolo")
    assert call("convert_yolo_to_coco", "--data-root", root).code == 0
    result = call("train_ssd", "--resume", run, "--epochs=2")
    assert result.code == 0 and "data.train" not in result.err and "COCO" not in result.err
    result = call("train_ssd", "--resume", run, "--epochs=3", "--dataset-type=auto")
    assert result.code == 0 and "data.train" not in result.err, result.err
    assert "dataset_type: yolo in this run until now, auto from here on" in result.err


# ---- network and recipe


def test_mb2_ssd(sample, tmp_path):
    run = tmp_path / "run"
    log = train(sample, run, "--net=mb2-ssd", "--image-size=96x128", "--tensorboard")
    assert "mb2-ssd at 96x128" in log
    assert "classification_headers.0.weight" in weights(run)
    assert list((run / "tensorboard").glob("events.*"))


def test_a_detector_of_other_classes_is_a_start(finished, sample, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(sample, root)
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace('"star"', '"heart"'))
    source = finished[0] / "checkpoint_best.pt"
    run = tmp_path / "run"
    flags = ["--pretrained-ssd", source, "--freeze-net", "--optimizer=sgd", "--lr=1e-30"]
    assert "12 adapted to the classes (classification_headers.0, " in train(root, run, *flags)
    averaged = torch.load(source, weights_only=True)["ema"]
    trained = weights(run)
    for name in ("base_net.18.1.running_var", "extras.0.conv.4.running_mean"):
        assert torch.equal(trained[name], averaged[name])
    rows = trained["classification_headers.5.bias"].view(6, 5)
    kept = averaged["classification_headers.5.bias"].view(6, 5)
    torch.testing.assert_close(rows[:, :4], kept[:, :4])


def test_validation_after_the_last_epoch_only(sample, tmp_path):
    train(sample, tmp_path / "run", "--epochs=2", "--eval-every=0")
    assert ["AP" in record for record in read_metrics(tmp_path / "run")] == [False, True]


def test_the_seed_decides(sample, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(sample, tmp_path / name, "--seed", seed, "--eval-every=0")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert results(tmp_path / "a") != results(tmp_path / "c")


# ---- looking before the long run


def test_dry_run_prints_counts_and_draws_the_batch(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--dry-run", "--augmentation=none", "--iou-threshold=0.5"]
    result = call("train_ssd", "--datasets", sample, *FAST, *flags)
    assert (result.code, result.errors) == (0, [])
    output = result.out
    assert "images: (5, 3, 96, 96) torch.uint8" in output  # 4 and the one that was left
    assert "feature maps: 6x6, 3x3, 2x2, 1x1, 1x1, 1x1" in output
    assert "priors: 312 an image; positive" in output and "picture: dry_run.jpg" in output
    assert [path.name for path in tmp_path.iterdir()] == ["dry_run.jpg"]
    picture = cv2.imread(str(tmp_path / "dry_run.jpg"))
    assert picture.shape == (2 * 96, 4 * 96, 3)  # 5 images and 3 blank tiles
    assert picture[96:, 96 * 2 :].max() < 30


def test_the_decoded_targets_in_the_picture_are_the_boxes(tmp_path, monkeypatch):
    """One large box on black: its outline is where the annotation says, scaled to the input."""
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    for i in (1, 2):
        cv2.imwrite(str(root / f"train/{i}.png"), np.zeros((192, 384, 3), np.uint8))
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 192, "width": 384} for i in (1, 2)
        ],
        "annotations": [{"id": 1, "image_id": i, "category_id": 1, "bbox": [80, 40, 200, 120]}
                        for i in (1, 2)],
        "categories": [{"id": 1, "name": "box"}],
    }  # fmt: skip
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    flags = ["--dry-run", "--augmentation=none"]
    assert call("train_ssd", "--datasets", root, *FAST, *flags).code == 0
    picture = cv2.imread("dry_run.jpg")[:96, :96].max(axis=2) > 60
    rows, columns = np.flatnonzero(picture[:, 45]), np.flatnonzero(picture[50])
    # x 80..280 of 384 is 20..70 of 96; y 40..160 of 192 is 20..80.
    assert abs(columns.min() - 20) <= 1 and abs(columns.max() - 70) <= 1
    assert abs(rows.max() - 80) <= 1 and not picture[82:].any() and not picture[:, 73:].any()
