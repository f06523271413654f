"""Annotation files as text: syntax, pieces, names of a split; and files written atomically."""

import json
import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.datasets import coco_json
from vision.datasets.coco_folder import split_files
from vision.datasets.coco_json import CocoJson
from vision.files.atomic_file import write_atomically


class Entry(msgspec.Struct):
    id: int


class TestCocoJson:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param(b"", "byte 0: the file is empty", id="empty"),
            pytest.param(b'{"images": [1 2]}', r"byte 14: expected ',' or '\]'", id="no-comma"),
            pytest.param(b'{"images": [1,]}', "byte 14: trailing comma", id="trailing-comma"),
            pytest.param(b'{"images": [', "byte 12: .*truncated", id="cut-off"),
            pytest.param(b'{"a": 1} x', "byte (9|10): trailing characters", id="rubbish-after"),
            pytest.param(b'{"a": NaN, "b": [1 2]}', "byte 19", id="after-a-nan"),
            pytest.param(b"[]", "not a COCO file", id="a-list"),
            pytest.param(b'{"images": {}}', "'images' must be a list", id="no-list"),
            pytest.param(b'{"images": [{"id": 1}, {"id": "a"}]}', r"images\[1\].id", id="type"),
            pytest.param(b'{"images": [{"id": 1}, {}]}', r"images\[1\].*`id`", id="absent"),
        ],
    )
    def test_a_bad_file_is_named_with_the_place(self, tmp_path, text, message):
        path = tmp_path / "instances_val.json"
        path.write_bytes(text)
        with pytest.raises(ValueError, match=message) as error:
            list(CocoJson(path).chunks("images", Entry))
        assert str(path) in str(error.value)

    @pytest.mark.parametrize("text", [b"{}", b'{"images": null}', b'{"images":  [ ] }'])
    def test_a_list_may_be_absent(self, tmp_path, text):
        path = tmp_path / "a.json"
        path.write_bytes(text)
        assert [
            record for _, _, part in CocoJson(path).chunks("images", Entry) for record in part
        ] == []

    def test_nan_and_infinity_are_read_as_numbers_of_the_same_length(self, tmp_path):
        path = tmp_path / "a.json"
        text = b'{"a": [NaN, -Infinity, Infinity, "NaN \\" -Infinity"], "b": 1}'
        path.write_bytes(text)
        document = CocoJson(path)
        assert document.source[:] == text
        assert len(document.parsed) == len(text)
        assert json.loads(document.parsed) == {"a": [9e9, -9e9, 9e9, 'NaN " -Infinity'], "b": 1}

    def test_pieces_are_small(self, tmp_path, monkeypatch):
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"images": [{"id": number} for number in range(100)]}))
        monkeypatch.setattr(coco_json, "CHUNK_BYTES", 50)
        lengths = [len(records) for _, _, records in CocoJson(path).chunks("images", Entry)]
        assert sum(lengths) == 100
        assert 4 <= min(lengths[:-1]) <= max(lengths) <= 6

    nested = st.recursive(
        st.integers() | st.text() | st.sampled_from(["},{", '}, {"id": 7}', '\\"}', "]", "[{"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )

    @settings(max_examples=50)
    @given(
        entries=st.lists(st.fixed_dictionaries({"other": nested, "id": st.integers(0, 9)})),
        indent=st.sampled_from([None, 0, 3]),
        separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]),
        chunk_bytes=st.integers(0, 60),
    )
    def test_pieces_are_the_list(self, tmp_path_factory, entries, indent, separators, chunk_bytes):
        """Whatever strings and nested objects look like the end of an entry."""
        path = tmp_path_factory.getbasetemp() / "pieces.json"
        document = {"before": entries[:1], "images": entries, "after": {"id": 3}}
        path.write_text(json.dumps(document, indent=indent, separators=separators))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coco_json, "CHUNK_BYTES", chunk_bytes)
            file = CocoJson(path)
            pieces = list(file.chunks("images", Entry))
        assert [entry.id for _, _, part in pieces for entry in part] == [e["id"] for e in entries]
        start, stop = file.spans["images"]
        inside = b"".join(file.source[first:last] for first, last, _ in pieces)
        assert inside == file.source[start + 1 : stop - 1]


class TestSplitFiles:
    @pytest.mark.parametrize(
        ("files", "folders", "expected"),
        [
            (["instances_val2017.json", "instances_val.json"], ["val", "val2017"], (0, "val2017")),
            (["instances_val.json"], ["images/val", "val"], (0, "val")),
            (["instances_val.json"], ["images/val2017", "images/val"], (0, "images/val2017")),
            (["instances_val.json", "instances_train.json"], ["images/val"], (0, "images/val")),
            (["instances_val.json"], ["images", "train2017"], (0, "images")),
            (["instances_valid.json"], ["valid", "images"], (0, "valid")),
            (
                ["instances_validation.json"],
                ["images/validation", "images"],
                (0, "images/validation"),
            ),
            (["instances_valid.json", "instances_val.json"], ["valid", "val"], (1, "val")),
            (["instances_valid.json"], ["images/val"], (0, "images/val")),
            (["instances_val2014.json"], ["train2014", "val2014"], (0, "val2014")),
        ],
    )
    def test_the_first_name_that_exists(self, tmp_path, files, folders, expected):
        (tmp_path / "annotations").mkdir()
        for name in files:
            (tmp_path / "annotations" / name).write_text("{}")
        for name in folders:
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        assert split_files(tmp_path, "val") == (
            tmp_path / "annotations" / files[expected[0]],
            tmp_path / expected[1],
        )

    def test_what_was_looked_for_is_said(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere.*no such data set folder"):
            split_files(tmp_path / "nowhere", "val")
        with pytest.raises(ValueError, match=r"instances_val2017.json and .*instances_val.json"):
            split_files(tmp_path, "val")
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "instances_val.json").write_text("{}")
        with pytest.raises(ValueError, match=r"no images.*val2017, val, .*/val and images"):
            split_files(tmp_path, "val")


class TestWriteAtomically:
    def test_bytes_and_pieces(self, tmp_path):
        path = tmp_path / "file"
        write_atomically(path, b"abc")
        assert path.read_bytes() == b"abc"
        write_atomically(path, iter([b"d", b"", b"ef"]))
        assert path.read_bytes() == b"def"
        assert os.listdir(tmp_path) == ["file"]

    def test_the_mode_stays(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        path.chmod(0o640)
        write_atomically(path, b"new")
        assert path.stat().st_mode & 0o777 == 0o640

    def test_a_failure_leaves_the_old_file_alone(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def pieces():
            yield b"new"
            raise RuntimeError("halfway")

        with pytest.raises(RuntimeError, match="halfway"):
            write_atomically(path, pieces())
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]

    def test_a_full_disk_names_the_file(self, tmp_path):
        """A limit on the size of files stands in for the disk: the same error without a name."""
        path = tmp_path / "file"
        path.write_bytes(b"old")
        program = (
            "import resource, sys\n"
            "from vision.files.atomic_file import write_atomically\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: write_atomically(sys.argv[1], [bytes(60_000)] * 3)\n"
            "except OSError as error: print(error)\n"
        )
        command = [sys.executable, "-c", program, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert str(path) in result.stdout
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]

    def test_the_rest_of_a_killed_writer_goes_and_that_of_a_live_one_stays(self, tmp_path):
        path = tmp_path / "file[1]"
        program = (
            "import os, signal, sys\n"
            "from vision.files.atomic_file import write_atomically\n"
            "def pieces():\n"
            "    yield bytes(100_000)\n"
            "    print('writing', flush=True)\n"
            "    sys.stdin.readline()\n"
            "    yield b'end'\n"
            "write_atomically(sys.argv[1], pieces())\n"
        )
        command = [sys.executable, "-c", program, str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            subprocess.Popen(command, **pipes) as killed,
            subprocess.Popen(command, **pipes) as alive,
        ):
            assert killed.stdout.readline() == alive.stdout.readline() == b"writing\n"
            assert len(os.listdir(tmp_path)) == 2
            killed.kill()
            killed.wait()
            write_atomically(path, b"ours")
            assert len(os.listdir(tmp_path)) == 2  # ours, and the temporary file of the live one
            alive.communicate(b"\n")
        assert alive.returncode == 0
        assert path.read_bytes() == bytes(100_000) + b"end"
        assert os.listdir(tmp_path) == ["file[1]"]
