"""Names and sizes of annotation files against the images, through the validator."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from script_runs import call, tree
from voc_factory import CAT, make_voc, voc_xml
from yolo_factory import BOX, make_folder, write_image

SCRIPT = "validate_image_files"


def write_annotations(file: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """A COCO file with these images, (width, height) each, and no boxes."""
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items(), 1)
    ]
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))


def test_names_and_sizes_are_compared_with_the_annotations(tmp_path, run_script):
    folder = tmp_path / "train2017"
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("good.jpg", "turned.jpg", "wrong.jpg", "orphan.jpg"):
        write_image(folder / name)
    write_image(folder / "exif.jpg", exif=exif)
    write_image(folder / "exif_good.jpg", exif=exif)
    sizes = {
        "good.jpg": (100, 50),
        "turned.jpg": (50, 100),
        "wrong.jpg": (100, 49),
        "exif.jpg": (100, 50),
        "exif_good.jpg": (50, 100),
        "absent.jpg": (100, 50),
    }
    write_annotations(tmp_path / "annotations" / "instances_train2017.json", sizes)
    done = run_script(f"{SCRIPT}.py", "--path", folder, "--report", tmp_path / "report.json")
    assert done.returncode == 1
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    found = {
        kind: [os.path.basename(item["file"]) for item in entry["items"]]
        for kind, entry in findings.items()
    }
    assert found == {
        "entry without file": ["absent.jpg"],
        "rotated": ["exif.jpg", "turned.jpg"],
        "file without entry": ["orphan.jpg"],
        "wrong size": ["wrong.jpg"],
    }
    assert len(os.listdir(folder)) == 6 and not (tmp_path / "train2017_invalid").exists()


def test_annotations_of_a_shared_images_folder_are_taken_together(tmp_path, run_script):
    folder = tmp_path / "images"
    for name in ("a.jpg", "b.jpg"):
        write_image(folder / name)
        split = "train" if name == "a.jpg" else "val"
        write_annotations(tmp_path / "annotations" / f"instances_{split}.json", {name: (100, 50)})
    done = run_script(f"{SCRIPT}.py", "--path", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "were not compared" not in done.stdout


def test_the_whole_data_set_folder_can_be_checked(tmp_path, run_script):
    for split in ("train2017", "val2017", "test2017"):
        write_image(tmp_path / split / "a.jpg")
    write_annotations(tmp_path / "annotations" / "instances_val2017.json", {"a.jpg": (100, 40)})
    done = run_script(f"{SCRIPT}.py", "--path", tmp_path, "--dry-run")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == ["wrong size: 1"]


def test_annotations_given_and_damaged(tmp_path, run_script):
    write_image(tmp_path / "images" / "a.jpg")
    write_annotations(tmp_path / "mine.json", {"a.jpg": (100, 50), "b.jpg": (1, 1)})
    (tmp_path / "bad.json").write_text('{"images": [')
    files = ("--annotations", tmp_path / "mine.json", "--annotations", tmp_path / "bad.json")
    done = run_script(f"{SCRIPT}.py", "--path", tmp_path / "images", *files)
    assert done.returncode == 1
    assert "entry without file: 1" in done.stdout and "annotations unreadable: 1" in done.stdout


def make_open_images(root):
    """Relative boxes of the one image of train, which is there, and of the one of validation."""
    header = "ImageID,ClassName,XMin,XMax,YMin,YMax"
    for split, name in (("train", "a"), ("validation", "b")):
        write_image(root / split / f"{name}.jpg")
        text = f"{header}\n{name},cat,0.1,0.5,0.2,0.6\n"
        (root / f"sub-{split}-annotations-bbox.csv").write_text(text)
    return root


def make_labelled(root):
    (root / "images").mkdir(parents=True)
    return make_folder(root, {"a.jpg": BOX, "b.jpg": BOX})


def make_boxes(root):
    return make_voc(root, {"a": voc_xml(CAT), "b": voc_xml(CAT)}, {"trainval": "a\n", "val": "b\n"})


@pytest.mark.parametrize(
    ("make", "images", "orphan_counts"),
    [
        (make_boxes, "JPEGImages", 1),
        (make_open_images, "train", 0),  # an image without a row is a negative
        (make_labelled, "images", 0),  # and one without a label is left out
    ],
    ids=["voc", "open-images", "yolo"],
)
def test_every_layout_is_compared(tmp_path, make, images, orphan_counts):
    root = make(tmp_path / "data")
    for path in (root, root / images):
        done = call(SCRIPT, "--path", path, "--workers", 1)
        assert done.code == 0 and "not compared" not in done.out, done.out + done.err
    write_image(root / images / "orphan.jpg")
    done = call(SCRIPT, "--path", root / images, "--workers", 1)
    assert done.code == orphan_counts, done.out + done.err
    assert ("file without entry: 1" in done.out) == orphan_counts
    before = tree(root)
    (root / images / "a.jpg").unlink()
    done = call(SCRIPT, "--path", root, "--workers", 1)
    assert done.code == 1 and "annotations unreadable: " in done.out, done.out + done.err
    assert "a" in done.err and done.err.count("Traceback") == 0
    assert tree(root).keys() == before.keys() - {f"{images}/a.jpg"}


def test_a_turned_photo_of_another_layout(tmp_path):
    root = make_boxes(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(root / "JPEGImages/a.jpg", exif=exif)
    done = call(SCRIPT, "--path", root, "--workers", 1)
    assert done.code == 1 and "rotated: 1" in done.out, done.out
    assert "ImageSets/Main/trainval.txt" in done.err


def test_a_flag_names_the_layout(tmp_path):
    root = make_boxes(make_labelled(tmp_path))
    for layout, said in (("voc", "trainval.txt"), ("yolo", "split val")):
        report = tmp_path / f"{layout}.json"
        flags = ("--dataset-type", layout, "--report", report, "--workers", 1)
        call(SCRIPT, "--path", root, *flags)
        assert said in str(json.loads(report.read_text())["annotation_files"])
    done = call(SCRIPT, "--path", root, "--annotations", "a.json", "--dataset-type", "voc")
    assert done.code == 2 and "--annotations is a file of COCO's" in done.err


def test_one_file_for_all_splits_has_one_entry_an_image(tmp_path):
    write_image(tmp_path / "images/a.jpg")
    write_annotations(tmp_path / "annotations/instances_default.json", {"a.jpg": (100, 50)})
    done = call(SCRIPT, "--path", tmp_path / "images", "--workers", 1)
    assert done.code == 0, done.out + done.err
