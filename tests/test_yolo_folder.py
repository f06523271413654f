"""Layouts of YOLO folders: split files, foreign paths, data.yaml, folders of splits."""

import json
import os
import shutil

import pytest
from yolo_factory import BOX, as_coco, make_folder, write_image

from vision.datasets.findings import Findings
from vision.datasets.yolo import read_yolo


@pytest.mark.parametrize(
    "line",
    [
        "/home/annotator/images/a.png",
        "C:\\export\\images\\a.png",
        "a.png",
        "./images/a.png",
        "../images/a.png",
        "other/folder/a.png",
    ],
)
def test_foreign_paths_fall_back_to_the_images_folder(tmp_path, line):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "splits" / "val.txt").write_text(f"\n{line}  \n")
    coco = as_coco(read_yolo(root)["val"])
    assert coco["images"][0]["file_name"] == "a.png" and len(coco["annotations"]) == 1


def test_absolute_paths_that_exist_are_used(tmp_path):
    root = make_folder(tmp_path / "set", {"a.png": BOX})
    elsewhere = write_image(tmp_path / "photos" / "b.png")
    (root / "labels" / "b.txt").write_text(BOX)
    (root / "splits" / "val.txt").write_text(f"{root}/images/a.png\n{elsewhere}\n")
    split = read_yolo(root)["val"]
    assert split.image_folder == tmp_path
    names = [image["file_name"] for image in as_coco(split)["images"]]
    assert names == ["set/images/a.png", "photos/b.png"]
    assert len(as_coco(split)["annotations"]) == 2


def test_missing_images_are_counted_in_the_error(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "splits" / "val.txt").write_text("a.png\nx.png\ny.png\n")
    with pytest.raises(ValueError, match=r"val\.txt: 2 of 3 images.*line 2 \(x\.png\)"):
        read_yolo(root)


def test_repetitions_are_counted(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "splits" / "val.txt").write_text("a.png\n/elsewhere/a.png\n")
    (root / "splits" / "train.txt").write_text("a.png\n")
    findings = Findings()
    assert len(as_coco(read_yolo(root, findings=findings)["val"])["images"]) == 1
    assert findings.counts == {"in two splits": 1, "listed twice": 1}


def test_given_split_files_replace_the_folders_own(tmp_path):
    root = make_folder(tmp_path / "set", {"a.png": BOX, "b.png": BOX})
    (tmp_path / "mine.txt").write_text("b.png\n")
    splits = read_yolo(root, split_files={"train": tmp_path / "mine.txt"})
    assert [image["file_name"] for image in as_coco(splits["train"])["images"]] == ["b.png"]
    assert len(as_coco(splits["val"])["images"]) == 2
    with pytest.raises(OSError, match=r"absent\.txt"):
        read_yolo(root, split_files={"train": tmp_path / "absent.txt"})


def test_a_relative_root(tmp_path, monkeypatch):
    make_folder(tmp_path / "set", {"a.png": BOX})
    monkeypatch.chdir(tmp_path / "set")
    assert len(as_coco(read_yolo(".")["val"])["annotations"]) == 1
    elsewhere = write_image(tmp_path / "photos" / "b.png")
    (tmp_path / "set" / "splits" / "val.txt").write_text(f"a.png\n{elsewhere}\n")
    names = [image["file_name"] for image in as_coco(read_yolo(".")["val"])["images"]]
    assert names == ["set/images/a.png", "photos/b.png"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images/{}", "labels/{}"), ("{}/images", "{}/labels")],
    ids=["images/train", "train/images"],
)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_folders_of_splits(tmp_path, images, labels, val):
    for folder, name in (("train", "b.JPG"), ("train", "a.jpg"), (val, "a.jpg")):
        write_image(tmp_path / images.format(folder) / name)
        label_file = (tmp_path / labels.format(folder) / name).with_suffix(".txt")
        label_file.parent.mkdir(parents=True, exist_ok=True)
        label_file.write_text(BOX)
    (tmp_path / "data.yaml").write_text("names: [cat]\nnc: 1\n")
    splits = read_yolo(tmp_path)
    assert list(splits) == ["train", "val"]
    train, val_split = splits["train"], splits["val"]
    names = [image["file_name"] for image in as_coco(train)["images"]]
    assert [os.path.basename(name) for name in names] == ["a.jpg", "b.JPG"]
    assert all((train.image_folder / name).is_file() for name in names)
    assert len(as_coco(train)["annotations"]) == 2 and len(as_coco(val_split)["annotations"]) == 1


@pytest.mark.parametrize(
    "names",
    [
        "names: ['no', \"dog's\", 3]",
        "names:\n  0: no\n  1: dog's\n  2: 3",
        "names:\n- 'no'\n- dog's  # the second\n- 3\n",
        "names: ['no',\n  dog's, '3']",
        "names: {2: 3, 0: no, 1: dog's}",
    ],
)
@pytest.mark.parametrize(
    "places",
    [
        "path: ../datasets/mine\ntrain: images/train\nval: images/val",
        "train: ../images/train\nval: ../images/val",
        "path: .\ntrain: [images/train]\nval: lists/val.txt\ntest:\n",
    ],
)
def test_data_yaml(tmp_path, names, places):
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / "a.jpg")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "a.txt").write_text("1 0.5 0.5 0.5 0.5")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "val.txt").write_text("./images/val/a.jpg\n")
    config = tmp_path / "data.yaml"
    config.write_text(f"# by hand\n{places}\n{names}\ndownload: |\n  import x\n  train: no\n")
    for root in (tmp_path, config):
        splits = read_yolo(root)
        assert list(splits) == ["train", "val"]
        for split in splits.values():
            assert [item["name"] for item in as_coco(split)["categories"]] == ["no", "dog's", "3"]
            assert as_coco(split)["annotations"][0]["category_id"] == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.yaml", "names: [cat", "not valid YAML"),
        ("data.yaml", "just text", "expected lines"),
        ("data.yaml", "names: [cat, cat]", "both called 'cat'"),
        ("data.yaml", "names: [cat]\nnc: 2", "nc is 2, but names has 1"),
        ("data.yaml", "names: {a: b}", "names: must be"),
        ("data.yaml", "names: [[cat]]", "class 0 has no name"),
        ("data.yaml", "names: [cat]\ntrain: {a: b}", "train: must be"),
        ("classes.txt", "", "holds no class names"),
        ("classes.txt", "cat\n\ndog\n", "class 1 has no name"),
        ("classes.txt", "cat\ncat\n", "both called 'cat'"),
        ("classes.txt", b"caf\xe9\0\n", "holds binary data"),
    ],
)
def test_bad_class_lists_are_named(tmp_path, file, content, message):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_yolo(tmp_path)
    assert file in str(error.value) and "\n" not in str(error.value)


def test_classes_txt_with_a_trailing_empty_line_and_bom(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "classes.txt").write_text("\ufeffcat\r\ndog \r\n\r\n", encoding="utf-8")
    categories = as_coco(read_yolo(root)["val"])["categories"]
    assert [category["name"] for category in categories] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [("classes.txt", "no class names"), ("images/a.png", "no splits"), ("", "no such folder")],
)
def test_what_is_missing_is_said(tmp_path, missing, message):
    root = make_folder(tmp_path / "set", {"a.png": BOX})
    if missing.endswith("png"):
        (root / "splits/val.txt").unlink()
    if missing:
        (root / missing).unlink()
    with pytest.raises(ValueError, match=message):
        read_yolo(root if missing else tmp_path / "nowhere")


def test_an_empty_split_is_named(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "splits" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="split val has no images"):
        read_yolo(root)


# ---- other names and places


def write_labelled(root, image, rows=BOX, *, labels=None, **options):
    """An image, and its label file beside it or in `labels`."""
    path = write_image(root / image, **options)
    folder = root / labels if labels else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{path.stem}.txt").write_text(rows)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "val2017", "validation2017"])
def test_other_names_of_the_val_split(tmp_path, val):
    for name in ("train", val):
        write_labelled(tmp_path / "folders", f"images/{name}/a.jpg", labels=f"labels/{name}")
        write_labelled(tmp_path / "lists", f"images/{name}.jpg", labels="labels")
        (tmp_path / "lists/splits").mkdir(exist_ok=True)
        (tmp_path / f"lists/splits/{name}.txt").write_text(f"images/{name}.jpg\n")
    for folder in ("folders", "lists"):
        (tmp_path / folder / "classes.txt").write_text("cat\n")
        findings = Findings()
        splits = read_yolo(tmp_path / folder, findings=findings)
        assert list(splits) == ["train", "val"] and len(splits["val"].boxes) == 1
        assert findings.counts == {}


def test_what_is_not_taken_is_counted_with_its_name(tmp_path):
    for name in ("train", "val", "valid"):
        write_labelled(tmp_path, f"images/{name}/a.jpg", labels=f"labels/{name}")
    (tmp_path / "images/val/b.HEIC").touch()
    (tmp_path / "classes.txt").write_text("cat\n")
    findings = Findings()
    read_yolo(tmp_path, findings=findings)
    items = findings.as_report()["passed over"]["items"]
    assert [item["file"] for item in items] == [
        f"{tmp_path}/images/valid",
        f"{tmp_path}/images/val/b.HEIC",
    ]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("images/train/a.jpg\n")
    (tmp_path / "splits/small.txt").write_text("images/train/a.jpg\n")
    findings = Findings()
    assert list(read_yolo(tmp_path, findings=findings)) == ["train"]
    assert findings.as_report()["passed over"]["items"][0]["file"].endswith("splits/small.txt")


def test_labels_beside_images_as_darknet_and_labelimg_have_them(tmp_path):
    for split in ("train", "val"):
        write_labelled(tmp_path, f"{split}/{split}.jpg")
    (tmp_path / "classes.txt").write_text("cat\n")
    for _ in range(2):  # as folders, then as lists
        splits = read_yolo(tmp_path)
        assert {split: len(data.boxes) for split, data in splits.items()} == {"train": 1, "val": 1}
        assert splits["val"].names == ["val.jpg"]
        for split in ("train", "val"):
            (tmp_path / f"{split}.txt").write_text(f"{split}/{split}.jpg\n")


def test_a_folder_as_cvat_exports_it(tmp_path):
    for number in range(3):
        write_labelled(tmp_path, f"obj_train_data/sub/{number}.JFIF", format="JPEG")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\n")
    lines = "".join(f"data/obj_train_data/sub/{number}.JFIF\n" for number in range(3))
    (tmp_path / "train.txt").write_text(lines)
    splits = read_yolo(tmp_path)
    assert list(splits) == ["train"] and len(splits["train"].boxes) == 3
    assert splits["train"].classes == {0: "cat", 1: "dog"}


def test_a_note_that_is_called_as_a_split_is_no_list(tmp_path):
    write_labelled(tmp_path, "images/train/a.jpg", labels="labels/train")
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "train.txt").write_text("trained on Monday\n")
    assert read_yolo(tmp_path)["train"].names == ["a.jpg"]


def test_a_folder_without_splits_is_the_train_split(tmp_path):
    """As Label Studio exports it, and LabelImg leaves it: images and labels in one folder."""
    studio = make_folder(tmp_path / "studio", {"a.png": BOX, "b.png": BOX})
    shutil.rmtree(studio / "splits")
    write_labelled(tmp_path / "labelimg", "a.jpg")
    write_labelled(tmp_path / "labelimg", "b.jpg")
    (tmp_path / "labelimg/classes.txt").write_text("cat\n")
    for root in (studio, tmp_path / "labelimg"):
        findings = Findings()
        splits = read_yolo(root, findings=findings)
        assert {split: len(data.boxes) for split, data in splits.items()} == {"train": 2}
        assert findings.counts == {"no splits": 1}


def test_places_below_a_folder_that_is_not_there(tmp_path):
    """Roboflow's downloader writes the name of the folder before each place."""
    for split in ("train", "valid"):
        write_labelled(tmp_path, f"{split}/images/a.jpg", labels=f"{split}/labels")
    yaml = "train: my-set-1/train/images\nval: my-set-1/valid/images\nnames: [cat]\n"
    (tmp_path / "data.yaml").write_text(yaml)
    findings = Findings()
    splits = read_yolo(tmp_path, findings=findings)
    assert {split: len(data.boxes) for split, data in splits.items()} == {"train": 1, "val": 1}
    assert findings.counts == {"found elsewhere": 2}


@pytest.mark.parametrize(
    ("yaml", "place"),
    [
        ("train: images/train\nval: images/validation\n", "val: images/validation"),
        ("train: [images/train, images/more]\n", "train: images/more"),
        ("train: images/train\ntest: ../test/images\n", "test: ../test/images"),
        ("path: D:\\data\ntrain: D:\\data\\pictures\n", "train: D:\\data\\pictures"),
    ],
    ids=["val", "one of a list", "test", "windows"],
)
def test_a_place_that_data_yaml_names_has_to_be_there(tmp_path, yaml, place):
    write_labelled(tmp_path, "images/train/a.jpg", labels="labels/train")
    (tmp_path / "data.yaml").write_text(f"{yaml}names: [cat]\n")
    with pytest.raises(ValueError) as error:
        read_yolo(tmp_path)
    assert f"{tmp_path}/data.yaml: {place} is not there" in str(error.value)


@pytest.mark.parametrize(
    "yaml",
    [
        "path: D:\\sets\\mine\ntrain: images\\train\n",
        "path: /content/mine\ntrain: /content/mine/images/train\n",
        "path: ../datasets\ntrain: ../../elsewhere/images/train\n",
    ],
    ids=["windows", "absolute", "relative"],
)
def test_places_of_another_machine(tmp_path, yaml):
    write_labelled(tmp_path, "images/train/a.jpg", labels="labels/train")
    (tmp_path / "data.yaml").write_text(f"{yaml}names: [cat]\n")
    assert len(read_yolo(tmp_path)["train"].boxes) == 1


def test_a_yaml_of_another_name(tmp_path):
    write_labelled(tmp_path, "images/train/a.jpg", labels="labels/train")
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\n")
    (tmp_path / "cats.yml").write_text("names: [cat]\n")
    assert read_yolo(tmp_path)["train"].classes == {0: "cat"}
    (tmp_path / "dogs.yaml").write_text("names: [dog]\n")
    with pytest.raises(ValueError, match=r"cats\.yml, dogs\.yaml all name classes; give one"):
        read_yolo(tmp_path)
    assert read_yolo(tmp_path / "dogs.yaml")["train"].classes == {0: "dog"}


def test_a_split_whose_rows_are_all_bad_is_an_error_and_one_without_labels_is_noted(tmp_path):
    root = make_folder(tmp_path, {"a.png": "9 0.5 0.5 0.5 0.5\n", "b.png": None})
    with pytest.raises(ValueError, match=r"split val: none of the 1 rows .*labels/a\.txt"):
        read_yolo(root)
    (root / "labels/a.txt").unlink()
    findings = Findings()
    assert len(read_yolo(root, findings=findings)["val"].names) == 2
    (item,) = findings.as_report()["no label files"]["items"]
    assert f"{root}/labels/a.txt" in item["message"] and "split val" in item["message"]


def test_an_image_that_cannot_be_read_is_an_error_or_left_out(tmp_path, run_script):
    root = make_folder(tmp_path, {"a.jpg": BOX, "b.jpg": BOX, "c.jpg": BOX}, split="train")
    (root / "images/b.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"b\.jpg: not a readable image"):
        read_yolo(root)
    done = run_script("convert_yolo_to_coco.py", "--data-root", root)
    assert done.returncode == 1 and "train: 2 of 3 images" in done.stdout
    assert "b.jpg: not a readable image" in done.stderr or "b.jpg" in done.stderr
    content = json.loads((root / "annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "c.jpg"]
    assert [item["image_id"] for item in content["annotations"]] == [1, 2]
