"""Layouts of YOLO folders: split files, foreign paths, data.yaml, folders of splits."""

import os

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
        ("data.yaml", "names: [cat]\nkpt_shape: [17, 3]", "key points"),
        ("data.yaml", "names: [cat]\ntrain: {a: b}", "train: must be"),
        ("classes.txt", "", "holds no class names"),
        ("classes.txt", "cat\n\ndog\n", "class 1 has no name"),
        ("classes.txt", "cat\ncat\n", "both called 'cat'"),
        ("classes.txt", b"caf\xe9\n", "not UTF-8"),
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
    [("classes.txt", "no class names"), ("splits/val.txt", "no splits"), ("", "no such folder")],
)
def test_what_is_missing_is_said(tmp_path, missing, message):
    root = make_folder(tmp_path / "set", {"a.png": BOX})
    if missing:
        (root / missing).unlink()
    with pytest.raises(ValueError, match=message):
        read_yolo(root if missing else tmp_path / "nowhere")


def test_an_empty_split_is_named(tmp_path):
    root = make_folder(tmp_path, {"a.png": BOX})
    (root / "splits" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="split val has no images"):
        read_yolo(root)
