"""The converter as a user runs it: files, links, report, exit codes, second runs."""

import json
import os
import shutil
from pathlib import Path

import pytest
from yolo_factory import BOX, make_folder, write_image

from vision.datasets.coco_folder import split_files
from vision.datasets.coco_index import load_coco_index
from vision.datasets.image_files import read_image

SCRIPT = "convert_yolo_to_coco.py"


def make_splits(root: Path) -> Path:
    """Train with one image that has no label, val with one image."""
    make_folder(root, {"a.png": f"{BOX}\n7 1 1 1 1\n", "b.png": None}, split="train")
    return make_folder(root, {"c d.\u00fc.png": BOX}, split="val")


def assert_usable(root: Path, split: str) -> list[str]:
    """The data set rule leads to an index whose images can all be read; their names."""
    annotation_file, image_folder = split_files(root, split)
    index = load_coco_index(annotation_file)
    names = [index.file_name(image) for image in range(len(index.image_ids))]
    for name, (height, width) in zip(names, index.sizes.tolist(), strict=True):
        read_image(Path(image_folder, name), size=(height, width))
    return names


def test_the_folder_becomes_a_data_set_root(tmp_path, run_script):
    root = make_splits(tmp_path)
    before = sorted(os.listdir(root / "images"))
    done = run_script(SCRIPT, "--data-root", root)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"train: 1 of 2 images (1 without a label file), 1 boxes -> "
        f"{root}/annotations/instances_train.json",
        f"val: 1 of 1 images (0 without a label file), 1 boxes -> "
        f"{root}/annotations/instances_val.json",
        "unknown class: 1",
        "without labels: 1",
        f"report: {root}/annotations/conversion_report.json",
    ]
    assert f"WARNING: {root}/labels/a.txt:2: class 7" in done.stderr
    assert assert_usable(root, "train") == ["a.png"]
    assert assert_usable(root, "val") == ["c d.\u00fc.png"]
    assert sorted(os.listdir(root / "images")) == before

    report = json.loads((root / "annotations" / "conversion_report.json").read_text())
    assert report["splits"]["train"] == {
        "images_listed": 2,
        "images": 1,
        "images_without_label_file": 1,
        "annotations": 1,
    }
    assert report["findings"]["unknown class"]["items"][0]["line"] == 2


def test_a_second_run_writes_the_same(tmp_path, run_script):
    root = make_splits(tmp_path)
    files = [root / "annotations" / f"instances_{split}.json" for split in ("train", "val")]
    contents = []
    for _ in range(2):
        assert run_script(SCRIPT, "--data-root", root).returncode == 0
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
    assert len(os.listdir(root / "annotations")) == 3


def test_output_links_the_images(tmp_path, run_script):
    root, output = make_splits(tmp_path / "set"), tmp_path / "new" / "root"
    for _ in range(2):
        done = run_script(SCRIPT, "--data-root", root, "--output", output)
        assert done.returncode == 0, done.stderr
    assert not (root / "annotations").exists()
    assert (output / "train").is_symlink()
    assert assert_usable(output, "train") == ["a.png"]
    assert assert_usable(output, "val") == ["c d.\u00fc.png"]


@pytest.mark.parametrize(
    ("images", "labels"), [("images/{}", "labels/{}"), ("{}/images", "{}/labels")]
)
def test_ultralytics_folders_become_roots(tmp_path, run_script, images, labels):
    for split in ("train", "val"):
        write_image(tmp_path / images.format(split) / "a.jpg")
        (tmp_path / labels.format(split)).mkdir(parents=True)
        (tmp_path / labels.format(split) / "a.txt").write_text(BOX)
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    done = run_script(SCRIPT, "--data-root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert assert_usable(tmp_path, "train") and assert_usable(tmp_path, "val")


def test_a_folder_called_valid_gets_a_link(tmp_path, run_script):
    root = tmp_path / "set"
    write_image(root / "valid" / "images" / "a.jpg")
    (root / "valid" / "labels").mkdir()
    (root / "valid" / "labels" / "a.txt").write_text(BOX)
    (root / "data.yaml").write_text("names: [cat]\nval: ../valid/images\n")
    assert run_script(SCRIPT, "--data-root", root).returncode == 0
    root.rename(tmp_path / "moved")
    assert assert_usable(tmp_path / "moved", "val") == ["a.jpg"]


def test_images_elsewhere_need_an_output(tmp_path, run_script):
    root, output = make_splits(tmp_path / "set"), tmp_path / "new"
    photo = write_image(tmp_path / "photos" / "p.png")
    (root / "splits" / "val.txt").write_text(f"{photo}\n")
    done = run_script(SCRIPT, "--data-root", root)
    assert done.returncode == 1 and "--output" in done.stderr
    assert not (root / "annotations").exists()
    assert run_script(SCRIPT, "--data-root", root, "--output", output).returncode == 0
    assert assert_usable(output, "val") == ["p.png"]


@pytest.mark.parametrize("name", ["instances_val.json", "instances_val2017.json"])
def test_annotations_of_another_origin_are_kept(tmp_path, run_script, name):
    root = make_splits(tmp_path)
    (root / "annotations").mkdir()
    (root / "annotations" / name).write_text('{"images": []}')
    done = run_script(SCRIPT, "--data-root", root)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {root}/annotations/{name}")
    assert os.listdir(root / "annotations") == [name]
    assert (root / "annotations" / name).read_text() == '{"images": []}'


def test_strict_labels_fail_in_one_line_and_write_nothing(tmp_path, run_script):
    root = make_splits(tmp_path)
    done = run_script(SCRIPT, "--data-root", root, "--strict-labels")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: {root}/labels/a.txt:2: class 7 is not in the class list, which has 0 to 2 "
        "(1 such rows); correct the row or the list"
    ]
    assert not (root / "annotations").exists()


def test_given_files_and_confidence(tmp_path, run_script):
    root = make_folder(tmp_path / "set", {"a.png": f"{BOX} 0.9\n", "b.png": BOX})
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    (tmp_path / "list.txt").write_text("/elsewhere/a.png\n")
    done = run_script(
        *(SCRIPT, "--data-root", root, "--confidence", "--classes", tmp_path / "names.txt"),
        *("--train-split", tmp_path / "list.txt", "--report", tmp_path / "report.json"),
    )
    assert done.returncode == 0, done.stderr
    coco = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png"]
    assert [category["name"] for category in coco["categories"]] == ["one", "two"]
    assert len(coco["annotations"]) == 1 and (tmp_path / "report.json").is_file()


@pytest.mark.parametrize(
    ("break_folder", "words"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: (root / "images" / "a.png").unlink(), "images/a.png"),
        (lambda root: (root / "classes.txt").unlink(), "classes.txt"),
    ],
    ids=["no folder", "no image", "no classes"],
)
def test_bad_folders_fail_in_one_line(tmp_path, run_script, break_folder, words):
    root = make_splits(tmp_path / "set")
    break_folder(root)
    done = run_script(SCRIPT, "--data-root", root)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert not (root / "annotations").exists()


def test_wrong_usage(run_script):
    assert run_script(SCRIPT).returncode == 2
    assert run_script(SCRIPT, "--help").returncode == 0


def test_the_blood_cells(tmp_path, run_script, shared):
    source = shared / "data" / "finetune_dataset"
    done = run_script(SCRIPT, "--data-root", source, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    sizes = {split: len(assert_usable(tmp_path, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 205, "val": 87, "test": 72}
    assert "no area: 2" in done.stdout
