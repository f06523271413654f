"""Data sets of strangers: one line, bounded time and memory, and nothing changed beside the output.

Each reader is called through a script, as its users do.
"""

import argparse
import gzip
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runs import Run, call, tree
from voc_factory import CAT, make_voc, voc_xml
from yolo_factory import BOX, make_folder, write_image

from export_ssd import output_folder
from vision.datasets.image_names import find_all
from vision.deploy.frames import Frame, VideoFile
from vision.deploy.outputs import Csv, Video
from vision.download.part_file import PartFile
from vision.report.page import render_page

pytestmark = pytest.mark.usefixtures("bounded")
TERABYTE = 1 << 40
SOME = settings(max_examples=25)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
NAMES = st.text(max_size=12) | st.sampled_from(
    [
        "../x.jpg",
        "/x.jpg",
        "C:\\x.jpg",
        "a\nb.jpg",
        "\x1b[2J.jpg",
        "a\0.jpg",
        ".",
        "x" * 300 + ".jpg",
    ]
)


@pytest.fixture
def place(tmp_path):
    """A folder beside others, which must stay as they are."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/labels.txt").write_text("mine")
    write_image(tmp_path / "beside/private.jpg")
    (tmp_path / "data").mkdir()
    return tmp_path


def convert(place: Path, script: str = "convert_to_coco", *flags: object) -> Run:
    """Run a script on data/ into out/; check what holds whatever the data are."""
    shutil.rmtree(place / "out", ignore_errors=True)
    before = tree(place / "beside")
    flags = ("--dataset", place / "data", "--output", place / "out", *flags)
    done = call(script, *flags)
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code in (0, 1) and len(lines) == done.code, done
    assert "\x1b" not in done.out + done.err and "Traceback" not in done.err
    assert "the memory is full" not in done.err
    assert tree(place / "beside") == before
    assert {path.name for path in place.iterdir()} <= {"beside", "data", "out", "found.json"}
    return done


def coco_content(name: str = "a.jpg", class_name: object = "cat") -> dict:
    return {
        "images": [{"id": 1, "file_name": name, "width": 100, "height": 50}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 1, "name": class_name}],
    }


def write_coco(root: Path, content: object) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    write_image(root / "images/a.jpg")


def write_open_images(root: Path, rows: bytes) -> Path:
    write_image(root / "train/a.jpg")
    path = root / "sub-train-annotations-bbox.csv"
    path.write_bytes(b"ImageID,ClassName,XMin,XMax,YMin,YMax\n" + rows)
    return path


def large_label(root):
    os.truncate(make_folder(root, {"a.jpg": BOX}, split="train") / "labels/a.txt", TERABYTE)


def packed_label(root):
    label = make_folder(root, {"a.jpg": BOX}, split="train") / "labels/a.txt"
    label.write_bytes(gzip.compress(bytes(f"{BOX}\n", "ascii") * 1_000_000, 1))


def many_classes(root):
    root = make_folder(root, {"a.jpg": BOX}, split="train")
    (root / "classes.txt").write_text("\n".join(map(str, range(200_000))))


def large_xml(root):
    os.truncate(make_voc(root, {"a": voc_xml(CAT)}) / "Annotations/a.xml", TERABYTE)


def packed_xml(root):
    xml = make_voc(root, {"a": voc_xml(CAT)}) / "Annotations/a.xml"
    xml.write_bytes(gzip.compress(b"<annotation>" + b"<a/>" * 10_000_000, 1))


def large_csv(root):
    os.truncate(write_open_images(root, b"a,cat,0,1,0,1\n"), TERABYTE)


def open_quote(root):
    write_open_images(root, b'a,"' + b"cat,\n" * 100_000)


def long_class(root):
    write_open_images(root, b"a,cat,0,1,0,1\n")
    (root / "class-descriptions-boxable.csv").write_text("/m/1," + "y" * 300_000 + "\n")


def pipe_as_csv(root):
    path = write_open_images(root, b"")
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (large_label, "a.txt"),
        (packed_label, "a.txt: unpacks to more than 8,388,608 bytes"),
        (many_classes, "classes.txt"),
        (large_xml, "a.xml"),
        (packed_xml, "a.xml: unpacks to more than 8,388,608 bytes"),
        (large_csv, "bbox.csv:3: not"),  # a row, or with Python 3.10 CSV
        (open_quote, "not CSV (field larger than field limit"),
        (long_class, "boxable.csv:2: a label and a name are needed"),
        (pipe_as_csv, "no data set of a known layout"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_would_fill_the_memory_or_never_end(place, prepare, words):
    prepare(place / "data")
    done = convert(place)
    assert done.code == 1 and words in done.err


def test_names_of_classes_are_on_one_line(place):
    write_open_images(place / "data", b'a,"c\nat \x1b[31m",0,1,0,1\n')
    assert convert(place).code == 0
    content = json.loads((place / "out/annotations/instances_train.json").read_bytes())
    assert content["categories"] == [{"id": 1, "name": "c at \x1b[31m"}]


@pytest.mark.parametrize("name", ["../../beside/private.jpg", "{}/beside/private.jpg", "a\0.jpg"])
def test_images_outside_the_folder_are_not_read(place, name):
    write_coco(place / "data", coco_content(name.format(place)))
    done = convert(place)
    assert done.code == 1 and "1 names of images lead out of it" in done.err


def test_a_name_that_leads_out_is_found_inside_by_its_end(place):
    write_image(place / "data/a.jpg")
    found = find_all(["../elsewhere/a.jpg", "/mnt/disk/a.jpg"], place / "data")
    assert found[:2] == (["a.jpg", "a.jpg"], 2)


def test_two_images_do_not_share_a_label_file(place):
    content = coco_content()
    content["images"].append({**content["images"][0], "id": 2, "file_name": "a.png"})
    write_coco(place / "data", content)
    write_image(place / "data/images/a.png")
    (place / "found.json").write_text("[]")
    flags = ("--detections", place / "found.json", "--split", "train")
    for kind, code in (("yolo", 1), ("voc", 1), ("coco", 0)):
        done = convert(place, "detections_to_labels", "--format", kind, *flags)
        assert done.code == code, done
        assert code == 0 or "'a.jpg' and 'a.png' would have one label file" in done.err


def test_a_line_break_in_a_name_makes_no_line_of_a_list(place):
    content = coco_content("1\n2.jpg")
    content["images"] += [{**content["images"][0], "id": 2, "file_name": "a.jpg"}]
    write_coco(place / "data", content)
    write_image(place / "data/images/1\n2.jpg", width=90)
    for group in ("none", "video"):
        done = convert(place, "split_dataset", "--fractions", "0.5", "0.5", "--group-by", group)
        assert done.code == 1 and "a list cannot hold a name with a line break" in done.err
    (place / "found.json").write_text("[]")
    flags = ("--detections", place / "found.json", "--split", "train", "--format", "coco")
    assert convert(place, "detections_to_labels", *flags).code == 0
    assert (place / "out/order.txt").read_text() == "1\\n2.jpg\na.jpg\n"


def test_names_make_no_line_of_their_own_and_move_no_cursor(place):
    """A name may look like a line of the script's, or go back over one."""
    content = coco_content(class_name="cat\x1b[A\r0 images\nWRONG")
    content["categories"].append({"id": 9, "name": "\r\x1b[Anone\nerror: "})
    write_coco(place / "data", content)
    flags = ("--fractions", "0.5", "0.5", "--group-by", "none")
    said = [convert(place, "split_dataset", *flags)]
    said.append(call("check_dataset", "--dataset", place / "data"))
    for done in said:
        assert "\\x1b[A" in done.out and "\x1b" not in done.out and "\r" not in done.out, done
        assert not {"WRONG", "error: "} & set(done.out.split("\n"))


def test_a_damaged_image_of_a_name_in_another_encoding_moves_and_comes_back(place):
    write_image(place / "data/images/a.jpg")
    images = place / "data/images"
    bad = os.path.join(os.fsencode(images), b"caf\xe9.jpg")
    Path(os.fsdecode(bad)).write_bytes(b"no image")
    flags = ("--path", images, "--workers=1")
    done = call("validate_image_files", *flags, "--report", place / "found.json")
    assert done.code == 1 and "moved to" in done.out and not os.path.exists(bad), done
    json.loads((place / "found.json").read_bytes())
    assert call("validate_image_files", *flags, "--restore").code == 0
    assert os.path.exists(bad)


@pytest.mark.parametrize("moved_to", [".", "report.json", "sub", "\ud800.jpg"])
def test_only_what_was_moved_comes_back(place, moved_to):
    write_image(place / "data/images/a.jpg")
    invalid = place / "data/images_invalid"
    (invalid / "sub").mkdir(parents=True)
    entry = {"file": "b.jpg", "moved_to": moved_to, "reason": "", "size": 1, "digest": ""}
    (invalid / "report.json").write_text(json.dumps({"moved": [entry]}))
    before = tree(place)
    done = call("validate_image_files", "--path", place / "data/images", "--restore")
    assert done.code == 1 and "report.json: " in done.err and len(done.errors) == 1, done
    assert {name: tree(place)[name] for name in before if "report" not in name} == {
        name: before[name] for name in before if "report" not in name
    }


def test_folders_that_are_written_in_are_no_links(place):
    write_coco(place / "data", coco_content())
    (place / "data/images/bad.jpg").write_bytes(b"no image")
    (place / "data/images_invalid").symlink_to(place / "beside")
    (place / "beside/report.json").write_text('{"moved": []}')
    before = tree(place / "beside")
    for flags in ((), ("--restore",)):
        done = call("validate_image_files", "--path", place / "data/images", "--workers=1", *flags)
        assert done.code == 1 and "images_invalid" in done.err and "is a link" in done.err
    (place / "run").mkdir()
    (place / "run/export").symlink_to(place / "beside")
    for folder in (place / "run", place / "run/checkpoint_best.pt"):
        with pytest.raises(OSError, match="is a link"):
            output_folder(argparse.Namespace(output_dir=None, trained_model=str(folder)))
    assert tree(place / "beside") == before


def test_nothing_is_moved_through_links_that_lead_out(place):
    """Neither what lies where a link leads to, nor into such a folder; reading is another thing."""
    content = coco_content("album/labels.txt")
    write_coco(place / "data", content)
    images = place / "data/images"
    (place / "beside/broken.jpg").write_bytes(b"no image")
    (images / "album").symlink_to(place / "beside")
    (images / "own").mkdir()
    (images / "own/bad.jpg").write_bytes(b"no image")
    (images / "again").symlink_to("own")
    before = tree(place / "beside")
    done = call("validate_image_files", "--path", images, "--workers=1")
    assert done.code == 1 and "not moved: 2" in done.out, done
    assert tree(place / "beside") == before
    invalid = place / "data/images_invalid"
    moved = sorted(path.relative_to(invalid).as_posix() for path in invalid.rglob("*.jpg"))
    assert len(moved) == 1 and moved[0].endswith("/bad.jpg")
    report = json.loads((invalid / "report.json").read_text())
    report["moved"] += [report["moved"][0] | {"file": "album/x.jpg"}]
    (invalid / "report.json").write_text(json.dumps(report))
    done = call("validate_image_files", "--path", images, "--restore")
    assert done.code == 1 and "'album/x.jpg' leads out of the folder" in done.err
    (images / "b").mkdir()
    (images / "b/bad.jpg").write_bytes(b"no image")
    (invalid / "b").symlink_to(place / "beside")
    done = call("validate_image_files", "--path", images, "--workers=1")
    assert done.code == 1 and "a link on the way to it leads out" in done.err
    assert (images / "b/bad.jpg").exists() and tree(place / "beside") == before


def test_a_data_folder_that_is_a_link_is_the_users_own(place):
    """data/annotations and data/train on other disks are used as if they lay there, and it is said;
    only what no image's name has is not moved out of them."""
    (place / "disk").mkdir()
    write_coco(place / "disk", coco_content("no_image.tex"))
    (place / "disk/images/no_image.tex").write_text("my thesis")
    (place / "disk/images/bad.jpg").write_bytes(b"no image")
    for name in ("annotations", "images"):
        (place / "data" / name).symlink_to(place / "disk" / name)
    before = tree(place / "disk")
    path = ("--path", place / "data")
    assert call("fix_coco_annotations", *path, "--dry-run").code == 0
    assert tree(place / "disk") == before
    done = call("fix_coco_annotations", *path)
    assert done.code == 0 and f"a link, so the files in {place / 'disk/annotations'}" in done.out
    assert (place / "disk/annotations/instances_train.original.json").exists()
    done = call("validate_image_files", *path, "--workers=1")
    assert "not moved: 1" in done.out and f"a link leads to {place / 'disk/images'}" in done.err
    assert (place / "data_invalid/images/bad.jpg").exists()
    assert (place / "disk/images/no_image.tex").exists()
    assert not (place / "disk/images/bad.jpg").exists()
    assert call("validate_image_files", *path, "--restore").code == 0
    assert (place / "disk/images/bad.jpg").exists()


def test_a_data_folder_that_is_a_link_is_written_in(place):
    write_coco(place / "data", coco_content())
    (place / "out").mkdir()
    (place / "out/annotations").symlink_to(place / "data/images")
    done = call("convert_to_coco", "--dataset", place / "data", "--output", place / "out")
    assert done.code == 0 and "annotations: a link, so the files in" in done.err
    assert (place / "data/images/instances_train.json").exists()


def test_a_link_under_a_videos_first_name_is_not_written_through(place):
    (place / "out").mkdir()
    (place / "out/.a.mp4.part.mp4").symlink_to(place / "beside/labels.txt")
    video = Video(place / "out/a.mp4", fps=10, is_live=False)
    frame = Frame("a.avi", pixels=np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(OSError, match="is a link"):
        video.write(frame, [])
    assert (place / "beside/labels.txt").read_text() == "mine"


def test_a_pipe_as_video_is_not_waited_for(place):
    os.mkfifo(place / "a.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        VideoFile(place / "a.mp4")


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile pipe.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npipe.ts\n#EXT-X-ENDLIST\n",
    ],
    ids=["ffconcat", "m3u8"],
)
def test_a_list_of_files_under_a_videos_name_is_not_followed(place, content):
    """FFmpeg opens what it names: this pipe without end, or another video of the user's."""
    os.mkfifo(place / "pipe.ts")
    path = place / "a.m3u8"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.m3u8: a list of other files, not a video"):
        VideoFile(path)


def test_names_in_csv_are_on_one_line_and_move_no_cursor():
    file = io.StringIO()
    row = {"name": "\x1b[2J\n=cat\ud800", "score": 0.5, "xyxy": [1, 2, 3, 4]}
    Csv(file).write(Frame("a\n.jpg"), [row])
    lines = file.getvalue().splitlines()
    assert lines[1:] == ["a\\n.jpg,0,,\\x1b[2J\\n=cat\\ud800,0.5,1,2,3,4,,"]


def test_pages_show_no_control_characters():
    page = render_page(
        "doctor.html", **PAGE | {"image_size": (1, 1), "headline": "\x1b[2J\u202egpj.exe & <b>"}
    )
    assert "\\x1b[2J\\u202egpj.exe &amp; &lt;b&gt;" in page
    assert "\x1b" not in page and "\u202e" not in page


PAGE = dict.fromkeys(
    (
        "findings",
        "flags",
        "coverage",
        "image_size",
        "classes",
        "split_names",
        "figures",
        "pictures",
    ),
    (),
) | {"title": "", "footer": ""}


@SOME
@given(name=NAMES, class_name=NAMES)
def test_any_names_stay_in_their_folder(place, name, class_name):
    shutil.rmtree(place / "data")
    (place / "data").mkdir()
    write_coco(place / "data", coco_content(name, class_name))
    convert(place)
    found = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
    (place / "found.json").write_text(json.dumps(found))
    for kind in ("yolo", "voc"):
        flags = ("--detections", place / "found.json", "--split", "train", "--format", kind)
        convert(place, "detections_to_labels", *flags)


@SOME
@given(data=st.data())
def test_coco_of_other_types_is_taken_or_refused(place, data):
    content = coco_content()
    key = data.draw(st.sampled_from([*content, None]))
    if key is None:
        content = data.draw(VALUES)
    else:
        entry = content[key][0]
        entry[data.draw(st.sampled_from(list(entry)))] = data.draw(VALUES)
    write_coco(place / "data", content)
    convert(place)


@SOME
@given(data=st.data())
def test_a_data_yaml_of_other_types_is_taken_or_refused(place, data):
    entries: dict = {"path": "", "train": "images", "names": ["cat"], "nc": 1}
    for key in data.draw(st.sets(st.sampled_from(list(entries)), min_size=1)):
        entries[key] = data.draw(VALUES)
    make_folder(place / "data", {"a.jpg": BOX}, split="train")
    (place / "data/data.yaml").write_text(json.dumps(entries))  # JSON is YAML
    convert(place)


@SOME
@given(entry=st.dictionaries(st.sampled_from(["image_id", "category_id", "bbox", "score"]), VALUES))
def test_detections_of_other_types_are_taken_or_refused(place, entry):
    write_coco(place / "data", coco_content())
    whole = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    (place / "found.json").write_text(json.dumps([whole | entry]))
    convert(place, "detections_to_labels", "--detections", place / "found.json", "--split", "train")


@SOME
@given(record=st.fixed_dictionaries({"url": VALUES, "remote": VALUES, "done": VALUES}) | VALUES)
def test_a_record_of_a_download_of_other_types_is_started_again(tmp_path, record):
    (tmp_path / "a.zip.part").write_bytes(b"1234")
    (tmp_path / "a.zip.part.json").write_text(json.dumps(record))
    PartFile(tmp_path / "a.zip", "http://localhost/a.zip").close()
    assert (tmp_path / "a.zip.part").read_bytes() == b""
    assert json.loads((tmp_path / "a.zip.part.json").read_text())["url"] == "http://localhost/a.zip"
