"""What users get wrong, over all scripts: one line, exit 1 or 2, and nothing left behind."""

import json
import os
import shutil

import pytest
import torch
from script_runs import FAST, call, tree
from yolo_factory import BOX, make_folder

from vision.datasets.sample import write_sample_dataset
from vision.ssd.models import build_model

ANNOTATIONS = "data/annotations/instances_train2017.json"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A data set, a run trained on it, and a bare state dict."""
    root = tmp_path_factory.mktemp("originals")
    write_sample_dataset(root / "data", num_train=4, num_val=2, image_size=(60, 80))
    run = call("train_ssd", "--datasets", root / "data", "--checkpoint-folder", root / "run", *FAST)
    assert run.code == 0, run.err
    model = build_model("mb2-ssd-lite", num_classes=5, image_size=(96, 96), width_mult=0.25)
    torch.save(model.state_dict(), root / "bare.pth")
    return root


@pytest.fixture
def place(originals, tmp_path, monkeypatch):
    """A copy of them to break, as the working directory."""
    shutil.copytree(originals / "data", tmp_path / "data")
    # Checkpoints are never written in place, so another name will do.
    shutil.copytree(originals / "run", tmp_path / "run", copy_function=os.link)
    os.link(originals / "bare.pth", tmp_path / "bare.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(place, script, argv, *said, code=1):
    before = tree(place)
    result = call(script, *argv)
    assert result.code == code, result.err
    assert len(result.errors) == 1, result.err
    (line,) = result.errors
    for text in said:
        assert text in line, line
    assert "Traceback" not in result.err
    assert tree(place) == before


TRAIN = ["--datasets", "data", "--checkpoint-folder", "new", *FAST]
YOLO = ["--datasets", "yolo", "--dataset-type=yolo", "--checkpoint-folder", "new", *FAST]
EVAL = ["--dataset", "data", "--output-dir", "new", "--workers=0"]


# ---- folders


FOLDER_FLAG = {
    "train_ssd": ["--checkpoint-folder", "new", *FAST, "--datasets"],
    "train_mobilenetv2_ssd": ["--output-dir", "new", "--workers=0", "--data-root"],
    "eval_ssd": ["--trained-model", "run", "--output-dir", "new", "--workers=0", "--dataset"],
    "run_ssd_example": ["--trained-model", "run", "--output-dir", "new"],
    "fix_coco_annotations": ["--path"],
    "validate_image_files": ["--workers=1", "--path"],
    "convert_yolo_to_coco": ["--data-root"],
}


@pytest.mark.parametrize("kind", ["missing", "empty", "a file"])
@pytest.mark.parametrize("script", FOLDER_FLAG)
def test_a_folder_that_is_none(place, script, kind):
    if kind == "empty":
        (place / "elsewhere").mkdir()
    elif kind == "a file":
        (place / "elsewhere").write_text("not a folder")
    assert_refused(place, script, [*FOLDER_FLAG[script], "elsewhere"], "elsewhere")


@pytest.mark.parametrize("script", ["train_ssd", "eval_ssd"])
@pytest.mark.parametrize("kind", ["no image folder", "no images", "one image missing"])
def test_annotations_without_their_images(place, script, kind):
    for split in ("train2017", "val2017"):
        if kind == "one image missing":
            sorted((place / "data" / split).iterdir())[0].unlink()
            continue
        shutil.rmtree(place / "data" / split)
        if kind == "no images":
            (place / "data" / split).mkdir()
    assert_refused(place, script, [*FOLDER_FLAG[script], "data"], "data", "images")


# ---- annotation files


def edited(change):
    """A step that changes the train annotations as a Python object, in place."""

    def apply(place):
        content = json.loads((place / ANNOTATIONS).read_text())
        change(content)
        (place / ANNOTATIONS).write_text(json.dumps(content))

    return apply


def written(text):
    return lambda place: (place / ANNOTATIONS).write_bytes(text)


def set_in(section, key, value, *, row=0):
    return edited(lambda content: content[section][row].update({key: value}))


def drop(section, key, *, row=0):
    return edited(lambda content: content[section][row].pop(key))


ANNOTATION_FAULTS = {
    "empty file": (written(b""), ["empty"]),
    "cut short": (written(b'{"images": [{"id": 1, "file'), ["malformed JSON at byte"]),
    "a stray comma": (written(b'{"images": [],, "annotations": []}'), ["malformed JSON at byte"]),
    "no object": (written(b"[1, 2]"), ["not a COCO file"]),
    "not text": (written(b"\xff\xd8\xff\xe0" * 9), ["malformed JSON at byte 0"]),
    "no categories": (edited(lambda c: c.pop("categories")), ["no categories"]),
    "no images": (edited(lambda c: c.pop("images")), ["no images"]),
    "images of text": (edited(lambda c: c.update(images="all")), ["'images' must be a list"]),
    "an image without a name": (drop("images", "file_name", row=1), ["images[1]"]),
    "an image of a size of text": (set_in("images", "width", "60"), ["images[0].width"]),
    "an image of no size": (set_in("images", "width", 0), ["has the size"]),
    "a box of text": (set_in("annotations", "bbox", "all", row=2), ["annotations[2]"]),
    "an image id twice": (
        edited(lambda c: c["images"][1].update(id=c["images"][0]["id"])),
        ["is there twice"],
    ),
    "a category id twice": (set_in("categories", "id", 2), ["is there twice"]),
    "an unknown category": (
        set_in("annotations", "category_id", 77), ["unknown category 77", "fix_coco_annotations"]
    ),
    "an unknown image": (
        set_in("annotations", "image_id", 12345), ["unknown image 12345", "fix_coco_annotations"]
    ),
    "no annotations": (edited(lambda c: c.update(annotations=[])), ["no box"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", ANNOTATION_FAULTS)
def test_annotation_faults_stop_training_before_it_begins(place, fault):
    break_it, said = ANNOTATION_FAULTS[fault]
    break_it(place)
    assert_refused(place, "train_ssd", TRAIN, "instances_train2017.json", *said)


@pytest.mark.parametrize(
    "fault", ["empty file", "cut short", "no object", "no categories", "a box of text"]
)
def test_annotation_faults_stop_the_fixer_before_it_writes(place, fault):
    break_it, said = ANNOTATION_FAULTS[fault]
    break_it(place)
    said = ("instances_train2017.json", *said)
    assert_refused(place, "fix_coco_annotations", ["--path", "data"], *said)


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([5, 5, float("nan"), 9], "1 not finite"),
        ([5, 5, float("inf"), 9], "1 not finite"),
        ([5, 5, 0, 9], "1 no area inside the image"),
        ([5, 5, 9, -3], "1 no area inside the image"),
        ([500, 5, 9, 9], "1 no area inside the image"),
        ([5, 5, 0.25, 9], "1 thinner than 1 px"),
        (None, "1 not finite"),
    ],
    ids=["NaN", "infinite", "zero", "negative", "outside", "thin", "none"],
)
def test_boxes_that_cannot_be_used_are_counted_and_left_out(place, bbox, reason):
    set_in("annotations", "bbox", bbox)(place)
    result = call("train_ssd", *TRAIN)
    assert (result.code, result.errors) == (0, [])
    (line,) = [line for line in result.err.splitlines() if "boxes left out" in line]
    assert "instances_train2017.json" in line and reason in line


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["cut short", "empty", "text", "another size"])
def test_an_image_that_cannot_be_used_stops_training_by_its_name(place, kind, workers):
    path = sorted((place / "data/train2017").iterdir())[2]
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "another size":
        write_sample_dataset(place / "other", num_train=4, num_val=1, image_size=(48, 64))
        path.write_bytes(sorted((place / "other/train2017").iterdir())[0].read_bytes())
    else:
        path.write_bytes(b"" if kind == "empty" else b"not an image")
    result = call("train_ssd", *TRAIN, f"--workers={workers}")
    assert result.code == 1 and "Traceback" not in result.err
    (line,) = result.errors
    assert line.startswith("error: ") and f"train2017/{path.name}: " in line
    assert "Lower" not in line and not list(place.rglob("*.tmp"))
    # The run had begun: with the image mended, it can be continued.
    assert json.loads((place / "new/config.json").read_text())["classes"]


# ---- classes and checkpoints


def rename_star(place, root="data", splits=("val2017",)):
    for split in splits:
        path = place / root / f"annotations/instances_{split}.json"
        path.write_text(path.read_text().replace('"star"', '"heart"'))


def test_a_val_split_of_other_classes(place):
    rename_star(place)
    assert_refused(place, "train_ssd", TRAIN, "instances_val2017.json", "classes heart", "star")


def test_data_sets_of_other_classes_are_joined_but_not_at_a_resume(place):
    """Each class is unknown, not absent, in the images of the other; that is said."""
    shutil.copytree(place / "data", place / "more")
    rename_star(place, "more", ("train2017", "val2017"))
    done = call("train_ssd", *TRAIN, "--datasets", "data", "more")
    assert done.code == 0, done.err
    assert "data/annotations/instances_train2017.json: heart not annotated there" in done.err
    assert "more/annotations/instances_train2017.json: star not annotated there" in done.err
    argv = ["--resume", "run", "--epochs=2", "--datasets", "more"]
    assert_refused(place, "train_ssd", argv, "without ['star']", "--pretrained-ssd")


def test_a_model_is_measured_on_the_classes_that_a_file_has(place):
    for path in (place / "data/annotations").iterdir():
        content = json.loads(path.read_text())
        last = content["categories"].pop()["id"]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != last]
        path.write_text(json.dumps(content))
    argv = ["--trained-model", "run", "--dataset", "data", "--workers=0"]
    done = call("eval_ssd", *argv)
    assert done.code == 0 and "star not annotated there" in done.err


class Malicious:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def make_weights(place, kind):
    path = place / "weights.pth"
    if kind == "missing":
        return
    if kind == "text":
        path.write_text("not a torch file")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        path.write_bytes((place / "bare.pth").read_bytes()[:5000])
    elif kind == "code":
        torch.save({"model": Malicious()}, path)
    elif kind == "another network":
        torch.save({"vgg.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    elif kind == "another width":
        model = build_model("mb2-ssd-lite", num_classes=5, image_size=(96, 96), width_mult=0.5)
        torch.save(model.state_dict(), path)
    elif kind == "not finite":
        weights = torch.load(place / "bare.pth", weights_only=True)
        weights["base_net.3.conv.0.weight"][0] = float("nan")
        torch.save(weights, path)


@pytest.mark.parametrize(
    "kind",
    [
        "missing", "text", "empty", "cut short", "code", "another network", "another width",
        "not finite",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("train_ssd", [*TRAIN, "--base-net=weights.pth"]),
        ("train_ssd", [*TRAIN, "--pretrained-ssd=weights.pth"]),
        (
            "eval_ssd",
            [*EVAL, "--net=mb2-ssd", "--label-file=run/labels.txt", "--trained-model=weights.pth"],
        ),
    ],
    ids=["--base-net", "--pretrained-ssd", "eval_ssd"],
)
def test_weights_that_do_not_fit(place, script, argv, kind):
    make_weights(place, kind)
    said = ["base_net.3.conv.0.weight"] if kind == "not finite" else []
    assert_refused(place, script, argv, "weights.pth", *said)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--trained-model=bare.pth"], ["bare.pth", "--net"]),
        (["--trained-model=bare.pth", "--net=mb2-ssd-lite"], ["bare.pth", "--label-file"]),
        (
            ["--trained-model=bare.pth", "--net=mb2-ssd-lite", "--label-file=two.txt"],
            ["bare.pth", "4 classes", "two.txt has 2"],
        ),
        (
            ["--trained-model=bare.pth", "--net=mb2-ssd-lite", "--label-file=nowhere.txt"],
            ["nowhere.txt"],
        ),
        (["--trained-model=data"], ["data", "no"]),
        (["--trained-model=run", "--split=test"], ["test"]),
    ],
    ids=["no net", "no labels", "two classes", "labels missing", "no run", "no such split"],
)
def test_what_cannot_be_evaluated(place, argv, said):
    (place / "two.txt").write_text("cat\ndog\n")
    assert_refused(place, "eval_ssd", [*EVAL, *argv], *said)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--resume=nowhere"], ["nowhere", "no run"]),
        (["--resume=data"], ["data", "no run"]),
        (["--resume=run/checkpoint_epoch_0009.pt"], ["checkpoint_epoch_0009.pt"]),
        (["--resume=bare.pth"], ["no run"]),
        (["--resume=run", "--batch-size=8"], ["--batch-size was 4", "is 8 now"]),
        (["--resume=run", "--epochs=2", "--datasets", "nowhere"], ["nowhere: no such data set"]),
        ([*TRAIN, "--checkpoint-folder=run"], ["there is a run already", "--resume"]),
        ([*TRAIN, "--checkpoint-folder=bare.pth"], ["bare.pth"]),
        ([*TRAIN, "--checkpoint-folder=bare.pth/run"], ["bare.pth"]),
    ],
    ids=[
        "missing", "no run", "no such checkpoint", "a bare file", "another flag", "data gone",
        "used", "a file", "below a file",
    ],
)  # fmt: skip
def test_run_folders_that_are_none(place, argv, said):
    assert_refused(place, "train_ssd", argv, *said)


# ---- YOLO folders


def yolo(place, rows=BOX, **changes):
    root = make_folder(place / "yolo", {"a.jpg": rows, "b.jpg": BOX}, split="train")
    make_folder(root, {"c.jpg": BOX}, split="val")
    for name, content in changes.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt").replace("_jpg", ".jpg")
        if content is None:
            path.unlink()
        else:
            path.write_text(content)


YOLO_FAULTS = {
    "no classes": ({"classes_txt": None}, [], ["classes.txt"]),
    "no class names": ({"classes_txt": ""}, [], ["classes.txt"]),
    "no train list": ({"splits__train_txt": None}, [], ["train"]),
    "an empty train list": ({"splits__train_txt": ""}, [], ["train"]),
    "a given list is missing": ({}, ["--train-split=nowhere.txt"], ["nowhere.txt"]),
    "no labels at all": ({"labels__a_txt": "", "labels__b_txt": ""}, [], ["train"]),
    "an image is missing": ({"images__a_jpg": None}, [], ["a.jpg"]),
    "an unknown class": ({"rows": "7 0.5 0.5 0.1 0.1"}, ["--strict-labels"], ["a.txt:1", "7"]),
    "a word": ({"rows": f"{BOX}\n0 half 0.5 0.1 0.1"}, ["--strict-labels"], ["a.txt:2"]),
    "four numbers": ({"rows": "0 0.5 0.5 0.1"}, ["--strict-labels"], ["a.txt:1"]),
}


@pytest.mark.parametrize("fault", YOLO_FAULTS)
def test_yolo_faults_stop_training_before_it_begins(place, fault):
    changes, flags, said = YOLO_FAULTS[fault]
    yolo(place, **changes)
    assert_refused(place, "train_ssd", [*YOLO, *flags], *said)


@pytest.mark.parametrize("fault", YOLO_FAULTS)
def test_yolo_faults_stop_the_converter_before_it_writes(place, fault):
    changes, flags, said = YOLO_FAULTS[fault]
    yolo(place, **changes)
    if fault in ("no train list", "an empty train list", "no labels at all"):
        pytest.skip("a folder without a train split can be converted")
    assert_refused(place, "convert_yolo_to_coco", ["--data-root", "yolo", *flags], *said)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("7 0.5 0.5 0.1 0.1", "class"),
        ("0 half 0.5 0.1 0.1", "malformed"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 0.5 0.5 0 0.1", "area"),
        ("0 1.5 0.5 0.1 0.1", "area"),
    ],
    ids=["unknown class", "a word", "not finite", "zero", "outside"],
)
def test_yolo_rows_that_cannot_be_used_are_counted_and_left_out(place, row, kind):
    yolo(place, rows=f"{BOX}\n{row}")
    result = call("train_ssd", *YOLO)
    assert (result.code, result.errors) == (0, [])
    (line,) = [line for line in result.err.splitlines() if ": 1 x " in line]
    assert "yolo" in line and kind in line
    assert "train: 2 images, 2 boxes" in result.err


# ---- flags


@pytest.mark.parametrize(
    ("script", "argv", "said"),
    [
        ("train_ssd", [*TRAIN, "--net=ssd"], "--net"),
        ("train_ssd", [*TRAIN, "--batch-size=1"], "BatchNorm"),
        ("train_ssd", [*TRAIN, "--colour"], "--colour"),
        ("train_mobilenetv2_ssd", ["--epochs=many"], "--epochs"),
        ("train_mobilenetv2_ssd", ["--data-root=data", "--colour=red"], "--colour"),
        ("eval_ssd", [*EVAL, "--trained-model=run", "--evaluator=mine"], "--evaluator"),
        ("eval_ssd", EVAL, "--trained-model"),
        ("eval_ssd", [*EVAL, "--trained-model=run", "--batch-size=0"], "--batch-size"),
        ("run_ssd_example", ["--trained-model=run", "data"], "--output-dir"),
        ("fix_coco_annotations", [], "--path"),
        ("fix_coco_annotations", ["--path", "data", "--colour"], "--colour"),
        ("validate_image_files", ["--path", "data", "--workers=0"], "--workers"),
        ("validate_image_files", ["--path", "data", "--workers=many"], "--workers"),
        ("convert_yolo_to_coco", ["--colour"], "--data-root"),
        ("coco_downloader", ["--path=new", "--splits=training"], "--splits"),
        ("coco_downloader", ["--path=new", "--workers=0"], "--workers"),
        ("coco_downloader", ["--path=new", "--timeout=soon"], "--timeout"),
        # Each would start processes, threads or connections until the machine stops.
        ("coco_downloader", ["--path=new", "--workers=99999"], "at most 1024"),
        ("coco_downloader", ["--path=new", "--connections=99999"], "at most 1024"),
        ("open_images_downloader", ["--class-names=a", "--workers=99999"], "at most 1024"),
        ("validate_image_files", ["--path", "data", "--workers=99999"], "at most 1024"),
        ("eval_ssd", [*EVAL, "--trained-model=run", "--workers=99999"], "at most 1024"),
        ("compare_runs", ["a", "b", "--workers=99999"], "at most 1024"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_flags_that_cannot_work(place, script, argv, said):
    assert_refused(place, script, argv, said, code=2)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--device=gpu", "--device"),
        ("--device=cuda:99", "--device"),
        ("--device=meta", "--device"),
        ("--precision=fp16", "--precision"),
        ("--image-size=64", "96"),
        ("--prior-sizes 0.5 0.4 0.3 0.2 0.1 0.05 0.01", "prior sizes"),
    ],
)
def test_values_that_cannot_work_here(place, flag, said):
    if flag == "--precision=fp16" and torch.cuda.is_available():
        pytest.skip("it can work here")
    assert_refused(place, "train_ssd", [*TRAIN, *flag.split()], said)


def test_as_a_process(run_script):
    argv = ["--datasets", "nowhere", "--checkpoint-folder", "nowhere/run"]
    result = run_script("train_ssd.py", *argv, timeout=100)
    assert result.returncode == 1
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert "error: " in result.stderr
