"""Names and sizes of annotation files against the images, through the validator."""

import json
import os
from pathlib import Path

from PIL import Image
from yolo_factory import write_image

SCRIPT = "validate_image_files.py"


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
    done = run_script(SCRIPT, "--path", folder, "--report", tmp_path / "report.json")
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
    done = run_script(SCRIPT, "--path", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "were not compared" not in done.stdout


def test_the_whole_data_set_folder_can_be_checked(tmp_path, run_script):
    for split in ("train2017", "val2017", "test2017"):
        write_image(tmp_path / split / "a.jpg")
    write_annotations(tmp_path / "annotations" / "instances_val2017.json", {"a.jpg": (100, 40)})
    done = run_script(SCRIPT, "--path", tmp_path, "--dry-run")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:] == ["wrong size: 1"]


def test_annotations_given_and_damaged(tmp_path, run_script):
    write_image(tmp_path / "images" / "a.jpg")
    write_annotations(tmp_path / "mine.json", {"a.jpg": (100, 50), "b.jpg": (1, 1)})
    (tmp_path / "bad.json").write_text('{"images": [')
    files = ("--annotations", tmp_path / "mine.json", "--annotations", tmp_path / "bad.json")
    done = run_script(SCRIPT, "--path", tmp_path / "images", *files)
    assert done.returncode == 1
    assert "entry without file: 1" in done.stdout and "annotations unreadable: 1" in done.stdout
