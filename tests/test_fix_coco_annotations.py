"""The annotation fixer: what changes, that nothing else does, and kills at every moment."""

import copy
import json
import math
import os
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fix_coco_annotations
from vision.datasets import coco_json, coco_rewrite
from vision.datasets.coco import load_coco_index
from vision.datasets.coco_repair import plan_repair
from vision.datasets.coco_rewrite import repaired_text

BEFORE = b"""{
  "info": {"description": "two  spaces", "category_id": 17},
  "annotations": [
    {"segmentation": [[1.50, 2.0,3,4e0]], "iscrowd": 0, "area": 12.0,
     "image_id": 5, "bbox": [1,2,3,4], "category_id": 17, "id": 1, "note": "\\"category_id\\": 3"},
    {"category_id": 3, "id": 1, "image_id": 5, "bbox": [1, 2, 2.5, 4]},
    {"category_id": 4, "id": 3, "image_id": 5, "bbox": [1, 2, 3, 4], "area": 1, "iscrowd": 0}
  ],
  "images": [{"id": 5, "file_name": "a.jpg", "width": 60, "height": 40}],
  "categories": [ {"name": "cat", "id": 17}, {"id": 3, "name": "person"} ]
}
"""
AFTER = (
    BEFORE.replace(b'17, "id": 1, "note"', b'1, "id": 1, "note"')
    .replace(b'{"category_id": 3, "id": 1,', b'{"category_id": 0, "id": 4,')
    .replace(b"2.5, 4]}", b'2.5, 4], "area": 10.0, "iscrowd": 0}')
    .replace(
        b',\n    {"category_id": 4, "id": 3, "image_id": 5, "bbox": [1, 2, 3, 4], "area": 1, '
        b'"iscrowd": 0}',
        b"",
    )
    .replace(b'"cat", "id": 17}', b'"cat", "id": 1, "original_id": 17}')
    .replace(b'{"id": 3, "name": "person"}', b'{"id": 0, "name": "person", "original_id": 3}')
)


@pytest.fixture
def data_set(tmp_path):
    """A data set with one annotation file that needs every kind of change."""
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_bytes(BEFORE)
    return tmp_path


def names_in(data_set):
    return sorted(os.listdir(data_set / "annotations"))


class TestScript:
    def test_byte_for_byte_by_hand_and_a_second_run(self, data_set, run_script):
        path = data_set / "annotations" / "instances_train.json"
        result = run_script("fix_coco_annotations.py", "--path", data_set)
        assert (result.returncode, result.stderr) == (0, "")
        assert path.read_bytes() == AFTER
        assert (path.parent / "instances_train.original.json").read_bytes() == BEFORE
        assert "2 category ids 3..17 become 0..1" in result.stdout
        for line in (
            "annotations of a category that does not exist, dropped: 1 (ids 3)",
            "annotations with the id of an earlier one, renumbered: 1 (ids 1)",
            "annotations without area, given width x height: 1 (ids 1)",
            "annotations without iscrowd, given 0: 1 (ids 1)",
        ):
            assert line in result.stdout
        before = path.stat()
        result = run_script("fix_coco_annotations.py", "--path", data_set)
        assert result.returncode == 0
        assert "already fixed, unchanged" in result.stdout
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
        assert names_in(data_set) == ["instances_train.json", "instances_train.original.json"]

    def test_a_dry_run_writes_nothing(self, data_set, run_script):
        result = run_script("fix_coco_annotations.py", "--path", data_set, "--dry-run")
        assert result.returncode == 0
        assert "become 0..1" in result.stdout
        assert (data_set / "annotations" / "instances_train.json").read_bytes() == BEFORE
        assert names_in(data_set) == ["instances_train.json"]

    def test_other_kinds_are_left_alone_with_a_note(self, data_set, run_script):
        others = ["captions_train.json", "panoptic_train.json", "person_keypoints_train.json"]
        for name in others:
            (data_set / "annotations" / name).write_text("not even JSON")
        result = run_script("fix_coco_annotations.py", "--path", data_set)
        assert result.returncode == 0
        for name in others:
            assert f"{name}: left alone" in result.stdout
            assert (data_set / "annotations" / name).read_text() == "not even JSON"

    @pytest.mark.parametrize(
        ("val", "message"),
        [
            pytest.param(b'{"images": [', "byte 12", id="malformed"),
            pytest.param(b"", "byte 0", id="empty"),
            pytest.param(BEFORE.replace(b'"cat"', b'"dog"'), "'cat' is only in", id="other-class"),
            pytest.param(BEFORE.replace(b'e": "cat", "id": 17', b'e": "cat", "id": 18'),
                         "17 'cat' is only in", id="other-id"),
            pytest.param(b'{"images": [], "categories": []}', "no categories", id="nothing"),
        ],
    )  # fmt: skip
    def test_a_bad_file_means_that_none_is_changed(self, data_set, run_script, val, message):
        (data_set / "annotations" / "instances_val.json").write_bytes(val)
        result = run_script("fix_coco_annotations.py", "--path", data_set)
        assert result.returncode == 1
        assert message in result.stderr
        assert "instances_val.json" in result.stderr
        assert result.stderr.count("\n") == 1
        assert (data_set / "annotations" / "instances_train.json").read_bytes() == BEFORE
        assert (data_set / "annotations" / "instances_val.json").read_bytes() == val
        assert names_in(data_set) == ["instances_train.json", "instances_val.json"]

    def test_train_and_val_get_the_same_ids_in_two_runs_also(self, data_set, run_script):
        assert run_script("fix_coco_annotations.py", "--path", data_set).returncode == 0
        (data_set / "annotations" / "instances_val2017.json").write_bytes(BEFORE)
        result = run_script("fix_coco_annotations.py", "--path", data_set)
        assert result.returncode == 0
        assert "instances_train.json: already fixed" in result.stdout
        assert (data_set / "annotations" / "instances_val2017.json").read_bytes() == AFTER

    def test_an_older_original_is_never_overwritten(self, data_set, run_script):
        original = data_set / "annotations" / "instances_train.original.json"
        original.write_bytes(b"of another year")
        assert run_script("fix_coco_annotations.py", "--path", data_set).returncode == 0
        assert original.read_bytes() == b"of another year"
        second = data_set / "annotations" / "instances_train.original.2.json"
        assert second.read_bytes() == BEFORE
        # fetched again and fixed again: the same original is kept once
        (data_set / "annotations" / "instances_train.json").write_bytes(BEFORE)
        assert run_script("fix_coco_annotations.py", "--path", data_set).returncode == 0
        assert len(names_in(data_set)) == 3

    def test_wrong_usage_and_no_data(self, tmp_path, run_script):
        assert run_script("fix_coco_annotations.py").returncode == 2
        result = run_script("fix_coco_annotations.py", "--path", tmp_path)
        assert result.returncode == 1
        assert "no annotations/instances_*.json" in result.stderr

    def test_real_annotations(self, shared, tmp_path, run_script):
        folder = tmp_path / "annotations"
        folder.mkdir()
        texts = {}
        for source in sorted((shared / "data" / "coco-mini" / "annotations").glob("*.json")):
            texts[source.name] = source.read_bytes()
            (folder / source.name).write_bytes(texts[source.name])
        result = run_script("fix_coco_annotations.py", "--path", tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        for name, text in texts.items():
            assert json.loads((folder / name).read_bytes()) == expected_repair(json.loads(text))
            original = folder / name.replace(".json", ".original.json")
            assert original.read_bytes() == text
            assert_same_index(load_coco_index(original), load_coco_index(folder / name))


def assert_same_index(before, after):
    """All that training and evaluation read is the same, but for the ids of the classes."""
    assert [(c.label, c.name, c.original_category_id) for c in before.categories] == [
        (c.label, c.name, c.original_category_id) for c in after.categories
    ]
    assert [c.category_id for c in after.categories] == list(range(len(after.categories)))
    for name, column in vars(before).items():
        if isinstance(column, np.ndarray | bytes):
            np.testing.assert_array_equal(getattr(after, name), column, err_msg=name)


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
        document = json.loads(BEFORE) | {"annotations": entries}
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document))
        found = plan_repair(path).found
        assert len(found) == len(expected) // 2
        for what, rows in found.items():
            assert rows.sum() == expected[0]
            assert expected[1] in what


KILL_AT = """
import os, runpy, signal, sys
folder, count, script = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def watch(event, arguments):
    global count
    if event != "compile" and any(folder in str(argument) for argument in arguments):
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
sys.path.insert(0, os.path.dirname(script))
sys.argv = [script, "--path", os.path.dirname(folder)]
runpy.run_path(script, run_name="__main__")
"""


class TestKill:
    def run_killed(self, data_set, count):
        script = fix_coco_annotations.__file__
        command = [sys.executable, "-c", KILL_AT, str(data_set / "annotations"), str(count), script]
        return subprocess.run(command, capture_output=True, check=False).returncode

    def test_at_every_touch_of_the_folder(self, data_set):
        """Killed before its 1st, 2nd, ... opening, linking, renaming in the folder."""
        path = data_set / "annotations" / "instances_train.json"
        states = []
        for count in range(1, 60):
            code = self.run_killed(data_set, count)
            states.append(path.read_bytes())
            assert states[-1] in (BEFORE, AFTER)
            originals = list(path.parent.glob("*.original*.json"))
            if states[-1] == AFTER:
                assert [original.read_bytes() for original in originals] == [BEFORE]
            if code == 0:
                break
            assert code == -signal.SIGKILL
            assert fix_coco_annotations.main(["--path", str(data_set)]) == 0
            assert path.read_bytes() == AFTER
            assert names_in(data_set) == ["instances_train.json", "instances_train.original.json"]
            for name in names_in(data_set):
                (path.parent / name).unlink()
            path.write_bytes(BEFORE)
        assert code == 0
        assert len(states) > 6
        assert states[0] == BEFORE
        assert states[-1] == AFTER


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


coordinates = st.integers(-30, 90) | st.floats(-30, 90, width=16)
sometimes_broken = coordinates | st.sampled_from([math.nan, math.inf, -math.inf])
boxes = (
    st.tuples(coordinates, coordinates, coordinates, coordinates)
    | st.tuples(sometimes_broken, sometimes_broken, sometimes_broken, sometimes_broken)
    | st.lists(coordinates, max_size=5)
)
polygons = st.lists(st.lists(st.floats(0, 60, width=32), max_size=6), max_size=2)
unknown_keys = st.sampled_from(
    [{}, {"attributes": {"category_id": 3}}, {"caption": '},{ "category_id": 7'}, {"score": None}]
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


class TestAnyFile:
    @settings(max_examples=200, deadline=None)
    @given(document=documents(), layout=layouts, chunk_bytes=st.sampled_from([20, 200, 1 << 20]))
    def test_repairs_and_nothing_else(self, tmp_path_factory, document, layout, chunk_bytes):
        path = tmp_path_factory.getbasetemp() / "instances_any.json"
        text = json.dumps(document, **layout).encode()
        path.write_bytes(text)
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
        if not repair.is_needed:
            assert fixed == text

    @settings(max_examples=50, deadline=None)
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

    @settings(max_examples=50, deadline=None)
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
