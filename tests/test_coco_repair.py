"""What the fixer changes in any annotation file, against a plain repair of the parsed JSON."""

import copy
import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fix_coco_annotations
from vision.datasets import coco_index, coco_json
from vision.datasets.coco_index import load_coco_index
from vision.repair import coco_repair, coco_rewrite
from vision.repair.coco_repair import plan_repair
from vision.repair.coco_rewrite import repaired_text, write_repair

SECTIONS = {
    "images": [{"id": 5, "file_name": "a.jpg", "width": 60, "height": 40}],
    "categories": [{"name": "cat", "id": 17}, {"id": 3, "name": "person"}],
}


def good(**changes):
    """An annotation that needs nothing but a new category id."""
    entry = {"id": 5, "image_id": 5, "category_id": 17, "bbox": [1, 2, 3, 4], "area": 9}
    entry = {**entry, "iscrowd": 0, **changes}
    return {key: value for key, value in entry.items() if value != "absent"}


class TestCounts:
    @pytest.mark.parametrize(
        ("entries", "expected"),
        [
            pytest.param([good()], [], id="good"),
            pytest.param([good(id=0), good(id=0), good()], [2, "with id 0"], id="zero"),
            pytest.param([good(id=None), good(id="absent")], [2, "without an id"], id="no-id"),
            pytest.param([good(), good(id=6), good(), good()], [2, "earlier one"], id="twice"),
            pytest.param([good(image_id=6, bbox=None)], [1, "of an image"], id="image"),
            pytest.param([good(category_id=1, image_id=6)], [1, "of a category"], id="category"),
            pytest.param([good(category_id="absent")], [1, "of a category"], id="no-category"),
            pytest.param([good(bbox=[1, 2, 3])], [1, "four finite numbers"], id="three-numbers"),
            pytest.param([good(bbox=[1, 2, 3, math.inf])], [1, "four finite"], id="infinite"),
            pytest.param([good(bbox=[60, 2, 3, 3])], [1, "no area inside"], id="outside"),
            pytest.param([good(bbox=[4, 2, 0, 3], area=None)], [1, "no area inside"], id="thin"),
            pytest.param([good(area=math.nan), good(id=6, area=0)], [1, "without area"], id="area"),
            pytest.param([good(iscrowd=None)], [1, "without iscrowd"], id="iscrowd"),
        ],
    )
    def test_one_line_a_kind(self, tmp_path, entries, expected):
        document = {**SECTIONS, "annotations": entries}
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document))
        found = plan_repair(path).found
        assert len(found) == len(expected) // 2
        for what, rows in found.items():
            assert rows.sum() == expected[0]
            assert expected[1] in what


def test_ids_that_are_text_and_missing_sizes_are_written_in(tmp_path, capsys):
    """The whole file by hand: what is not named keeps its bytes."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images/a.jpg")
    path = tmp_path / "annotations/instances_train.json"
    before = """{"images": [
  {"id": "x",  "file_name": "a.jpg", "note": "id"},
  {"id": 7, "file_name": "b.jpg", "width": 6, "height": 4}
], "annotations": [
  {"id": "u1", "image_id": "x", "category_id": "2", "bbox": [1, 2, 3, 4], "area": 9, "iscrowd": 0},
  {"id": 4, "image_id": "7", "category_id": 5, "bbox": [1, 2, 3, 1.0], "area": 3, "iscrowd": 0}
], "categories": [{"id": "2", "name": "cat"},
  {"id": 5, "name": "dog"}]}"""
    after = """{"images": [
  {"id": 8,  "file_name": "a.jpg", "note": "id", "height": 40, "width": 60},
  {"id": 7, "file_name": "b.jpg", "width": 6, "height": 4}
], "annotations": [
  {"id": 5, "image_id": 8, "category_id": 0, "bbox": [1, 2, 3, 4], "area": 9, "iscrowd": 0},
  {"id": 4, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 1.0], "area": 3, "iscrowd": 0}
], "categories": [{"id": 0, "name": "cat", "original_id": 2},
  {"id": 1, "name": "dog", "original_id": 5}]}"""
    path.write_text(before)
    index = load_coco_index(path, tmp_path / "images")
    assert fix_coco_annotations.main(["--path", str(tmp_path)]) == 0
    assert path.read_text() == after
    said = capsys.readouterr().out
    assert "images without width and height, read from their files: 1 (a.jpg)" in said
    assert "images whose id is text, numbered: 1 (a.jpg)" in said
    assert "annotations with ids that are text, given numbers: 2 (ids 4" in said
    fixed = load_coco_index(path)
    assert_same_index(index, fixed)
    assert fixed.accepted == {}
    assert fix_coco_annotations.main(["--path", str(tmp_path)]) == 0
    assert path.read_text() == after


def expected_repair(document):
    """The repair as one would write it for a small file, on the parsed JSON."""
    document = copy.deepcopy(document)
    ids = sorted(category["id"] for category in document["categories"])
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    for category in document["categories"]:
        category.setdefault("original_id", category["id"])
        category["id"] = ids.index(category["id"])
    kept = []
    for annotation in document.get("annotations") or []:
        if annotation.get("category_id") not in ids or annotation.get("image_id") not in sizes:
            continue
        box = annotation.get("bbox")
        if box is None or len(box) != 4 or not all(map(math.isfinite, box)):
            continue
        width, height = sizes[annotation["image_id"]]
        x, y, w, h = box
        if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
            continue
        kept.append(annotation)
        annotation["category_id"] = ids.index(annotation["category_id"])
        if annotation.get("area") is None or not math.isfinite(annotation["area"]):
            annotation["area"] = float(w) * float(h)
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
    every_id = [annotation.get("id") for annotation in document.get("annotations") or []]
    unused = max([0, *(number for number in every_id if number is not None)]) + 1
    seen = set()
    for annotation in kept:
        if annotation.get("id") in {None, 0} | seen:
            annotation["id"] = unused
            unused += 1
        seen.add(annotation["id"])
    if document.get("annotations"):
        document["annotations"] = kept
    return document


def assert_same_index(before, after):
    """All that training and evaluation read is the same, but for the ids of the classes."""
    assert [(c.label, c.name, c.original_category_id) for c in before.categories] == [
        (c.label, c.name, c.original_category_id) for c in after.categories
    ]
    assert [c.category_id for c in after.categories] == list(range(len(after.categories)))
    for name, column in vars(before).items():
        if isinstance(column, np.ndarray | bytes):
            np.testing.assert_array_equal(getattr(after, name), column, err_msg=name)


class TestRealAnnotations:
    @pytest.mark.parametrize("split", ["train2017", "val2017"])
    def test_repaired_as_expected(self, shared, tmp_path, split):
        source = shared / "data" / "coco-mini" / "annotations" / f"instances_{split}.json"
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        original = write_repair(plan_repair(path))
        assert original.read_bytes() == source.read_bytes()
        assert json.loads(path.read_bytes()) == expected_repair(json.loads(source.read_bytes()))
        assert_same_index(load_coco_index(source), load_coco_index(path))


coordinates = st.integers(-30, 90) | st.floats(-30, 90, width=16)
sometimes_broken = coordinates | st.sampled_from([math.nan, math.inf, -math.inf])
boxes = (
    st.tuples(coordinates, coordinates, coordinates, coordinates)
    | st.tuples(sometimes_broken, sometimes_broken, sometimes_broken, sometimes_broken)
    | st.lists(coordinates, max_size=5)
)
polygons = st.lists(st.lists(st.floats(0, 60, width=32), max_size=6), max_size=2)
unknown_keys = st.sampled_from(
    [{}, {"attributes": {"category_id": 3}}, {"note": '},{ "category_id": 7'}, {"score": None}]
)


@st.composite
def annotations_of(draw, category_ids, image_ids):
    annotation = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "segmentation": polygons,
                "area": st.floats(0, 1e4) | st.sampled_from([None, math.nan, 7]),
                "iscrowd": st.sampled_from([0, 1, None]),
                "image_id": st.sampled_from([*image_ids, image_ids[0], 77]),
                "bbox": boxes | st.none(),
                "category_id": st.sampled_from([*category_ids, category_ids[0], 88]),
                "id": st.integers(-1, 6) | st.none() | st.integers(2**40, 2**40 + 2),
            },
        )
    )
    likely = {"image_id": image_ids[0], "category_id": category_ids[0], "bbox": [1, 2, 3.5, 4]}
    for key, value in likely.items():
        if draw(st.integers(0, 3)):
            annotation.setdefault(key, value)
    keys = draw(st.permutations(sorted(annotation)))
    return {**{key: annotation[key] for key in keys}, **draw(unknown_keys)}


@st.composite
def documents(draw):
    category_ids = draw(st.lists(st.integers(-3, 90), min_size=1, max_size=5, unique=True))
    image_ids = draw(st.lists(st.integers(0, 50), min_size=1, max_size=3, unique=True))
    sections = {
        "info": draw(unknown_keys),
        "categories": [
            {"supercategory": "},{", "id": number, "name": f"class {number}"}
            for number in category_ids
        ],
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 60}
            for number in image_ids
        ],
        "annotations": draw(
            st.lists(annotations_of(category_ids, image_ids), max_size=12) | st.none()
        ),
    }
    return {key: sections[key] for key in draw(st.permutations(sorted(sections)))}


layouts = st.sampled_from(
    [{}, {"indent": 2}, {"separators": (",", ":")}, {"separators": ("\n ,", " :\t")}]
)


class RawSegmentation(msgspec.Struct):
    id: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"")


@pytest.fixture(scope="module")
def _any_boxes():
    """Drawn boxes are in no image, so all of them together tell nothing of their form."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (coco_index, coco_repair):
            patch.setattr(module, "check_box_form", lambda *_: None)
        yield


@pytest.mark.usefixtures("_any_boxes")
class TestAnyFile:
    @settings(max_examples=100)
    @given(document=documents(), layout=layouts, chunk_bytes=st.sampled_from([20, 200, 1 << 20]))
    def test_repairs_and_nothing_else(self, tmp_path_factory, document, layout, chunk_bytes):
        path = tmp_path_factory.getbasetemp() / "instances_any.json"
        path.write_text(json.dumps(document, **layout))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coco_json, "CHUNK_BYTES", chunk_bytes)
            patch.setattr(coco_rewrite, "COPY_BYTES", max(chunk_bytes, 7))
            repair = plan_repair(path)
            fixed = b"".join(repaired_text(repair))
            path.write_bytes(fixed)
            again = plan_repair(path)
            assert not again.is_needed
            assert b"".join(repaired_text(again)) == fixed
        # NaN equals nothing, so numbers are compared as they are spelt
        expected = json.loads(json.dumps(expected_repair(document)), **AS_SPELT)
        assert json.loads(fixed, **AS_SPELT) == expected

    @settings(max_examples=50)
    @given(document=documents(), layout=layouts)
    def test_the_index_is_the_same(self, tmp_path_factory, document, layout):
        """So training and evaluation are: they read nothing else of the file."""
        known = {
            "image_id": {image["id"] for image in document["images"]},
            "category_id": {category["id"] for category in document["categories"]},
        }
        document["annotations"] = [
            annotation
            for annotation in document["annotations"] or []
            if all(annotation.get(key) in ids for key, ids in known.items())
        ]
        path = tmp_path_factory.getbasetemp() / "instances_same.json"
        path.write_text(json.dumps(document, **layout))
        before = load_coco_index(path)
        fixed = b"".join(repaired_text(plan_repair(path)))
        path.write_bytes(fixed)
        assert_same_index(before, load_coco_index(path))

    @settings(max_examples=50)
    @given(document=documents(), layout=layouts)
    def test_segmentations_byte_for_byte(self, tmp_path_factory, document, layout):
        for number, annotation in enumerate(document["annotations"] or [], 1):
            annotation["id"] = number
        text = json.dumps(document, **layout).replace("NaN", "1e0").replace("Infinity", "1")
        path = tmp_path_factory.getbasetemp() / "instances_polygons.json"
        path.write_text(text)
        fixed = b"".join(repaired_text(plan_repair(path)))
        before, after = segmentations(text.encode()), segmentations(fixed)
        assert after == {number: before[number] for number in after}


AS_SPELT = {"parse_float": str, "parse_int": str, "parse_constant": str}


def segmentations(text):
    entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])["annotations"]
    entries = msgspec.json.decode(entries, type=list[RawSegmentation] | None) or []
    return {entry.id: bytes(entry.segmentation) for entry in entries}
