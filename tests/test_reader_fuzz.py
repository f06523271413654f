"""Whatever lies in a data set: it is read, or named in one line; nothing is changed."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_runs import tree
from voc_factory import CAT, DOG, make_voc, voc_xml
from yolo_factory import BOX, make_folder, write_image

from vision.command_line import MOST_LETTERS
from vision.datasets.layouts.choose import LAYOUTS
from vision.datasets.layouts.layout import NO_OPTIONS
from vision.files.printable import printable

pytestmark = pytest.mark.usefixtures("bounded")
SETTINGS = settings(max_examples=40)
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in (1, 2)],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": 0}
        for i in (1, 2)
    ],
    "categories": [{"id": 1, "name": "cat"}],
}


def make_coco(root):
    for name in ("1.jpg", "2.jpg"):
        write_image(root / "train" / name)
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(COCO))


def make_roboflow(root):
    for name in ("1.jpg", "2.jpg"):
        write_image(root / "train" / name)
    (root / "train/_annotations.coco.json").write_text(json.dumps(COCO))


def make_yolo(root):
    make_folder(root, {"a.jpg": BOX, "b.jpg": BOX}, split="train")


def make_ultralytics(root):
    for split in ("train", "val"):
        write_image(root / f"images/{split}/{split}.jpg")
        (root / f"labels/{split}").mkdir(parents=True)
        (root / f"labels/{split}/{split}.txt").write_text(BOX)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat]\n")


def make_listed(root):
    make_voc(root, {"a": voc_xml(CAT, DOG), "b": voc_xml(DOG)}, {"train": "a\nb\n", "val": "b 1\n"})
    (root / "labels.txt").write_text("cat\ndog\n")


def make_beside(root):
    for name in ("a", "b"):
        write_image(root / f"train/{name}.jpg")
        (root / f"train/{name}.xml").write_text(voc_xml(CAT))


def make_open_images(root):
    write_image(root / "train/a.jpg")
    (root / "train-annotations-bbox.csv").write_text(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
        "a,xclick,/m/01,1,0.1,0.5,0.2,0.6,0\na,xclick,/m/02,1,0.1,0.5,0.2,0.6,1\n"
    )
    (root / "class-descriptions-boxable.csv").write_text("/m/01,Cat\n/m/02,Dog\n")


PLACES = [
    (make_coco, "coco", "annotations/instances_train.json"),
    (make_roboflow, "coco", "train/_annotations.coco.json"),
    (make_yolo, "yolo", "classes.txt"),
    (make_yolo, "yolo", "splits/train.txt"),
    (make_yolo, "yolo", "labels/a.txt"),
    (make_ultralytics, "yolo", "data.yaml"),
    (make_ultralytics, "yolo", "labels/train/train.txt"),
    (make_listed, "voc", "ImageSets/Main/train.txt"),
    (make_listed, "voc", "Annotations/a.xml"),
    (make_listed, "voc", "labels.txt"),
    (make_beside, "voc", "train/a.xml"),
    (make_open_images, "open-images", "train-annotations-bbox.csv"),
    (make_open_images, "open-images", "class-descriptions-boxable.csv"),
]


def read_all(root, layout):
    """Open every split, as train, eval, doctor and converters do; return what is said of it."""
    try:
        folder = LAYOUTS[layout](root, NO_OPTIONS)
        for split in folder.splits:
            index = folder.open(split).index
            assert len(index) == len(index.sizes) and (index.clipped_boxes >= 0).all()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def check_said(root, said, before):
    if said is not None:
        assert str(root) in said, said
        assert printable(said).count("\n") == 0 and len(said) < MOST_LETTERS, said
    assert tree(root) == before


@pytest.mark.parametrize(
    ("make", "layout", "place"), PLACES, ids=[f"{p[0].__name__[5:]}-{p[2]}" for p in PLACES]
)
def test_any_bytes(tmp_path, make, layout, place):
    root = tmp_path / "data"
    make(root)
    file = root / place
    whole = file.read_bytes()
    assert read_all(root, layout) is None

    @SETTINGS
    @given(data=st.data())
    def damaged(data):
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, min(len(whole), start + 30)))
        inserted = data.draw(
            st.binary(max_size=12)
            | st.sampled_from(
                [b"\0", b"\xff\xfe", b"\x1f\x8b\x08", b"nan", b"-1e400", b'"', b"&a;", b"<"]
            )
        )
        file.write_bytes(data.draw(st.sampled_from([whole[:start], b""])) + inserted + whole[end:])
        before = tree(root)
        check_said(root, read_all(root, layout), before)

    damaged()
    shutil.rmtree(root)


VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        2**70,
        1e400,
        0.5,
        "",
        "1",
        "../../x",
        "a\nb",
        "a\0b",
        [],
        [[]],
        {},
        [1, 2],
        "\ud800",
    ]
)


@SETTINGS
@given(data=st.data())
def test_any_value_in_a_coco_file(tmp_path_factory, data):
    root = tmp_path_factory.getbasetemp() / "typed"
    if not root.exists():
        make_coco(root)
    content = json.loads(json.dumps(COCO))
    section = data.draw(st.sampled_from([*COCO, None]))
    if section is None:
        content[data.draw(st.sampled_from([*COCO, "info"]))] = data.draw(VALUES)
    else:
        entry = content[section][0]
        key = data.draw(st.sampled_from([*entry, "area"]))
        entry.pop(key, None)
        if data.draw(st.booleans()):
            entry[key] = data.draw(VALUES)
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    before = tree(root)
    check_said(root, read_all(root, "coco"), before)
