"""The annotation fixer: what changes, that nothing else does, and kills at every moment."""

import os
import signal
import subprocess
import sys

import pytest

import fix_coco_annotations

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
        assert "no annotations/instances_*.json in it; it holds nothing" in result.stderr

    @pytest.mark.parametrize(
        ("file", "said"),
        [
            ("result.json", "it holds result.json"),
            ("annotations/person.json", "it holds annotations/person.json"),
            ("labels/a.txt", "YOLO labels need no fixing"),
        ],
    )
    def test_what_lies_there_instead_is_named(self, tmp_path, capsys, file, said):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
        assert fix_coco_annotations.main(["--path", str(tmp_path)]) == 1
        assert said in capsys.readouterr().err


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
