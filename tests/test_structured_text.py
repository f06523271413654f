"""JSON and YAML of strangers: read, or refused in a line that names the file, in bounded time."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.download.coco_archives import read_checksums
from vision.engine.metrics import MetricsLog
from vision.files.guarded import MOST_BYTES, read_regular
from vision.files.limited_yaml import MOST_NODES, parse_yaml
from vision.files.printable import printable, printable_lines
from vision.files.structured_text import parse_json, read_json, read_json_lines, reading
from vision.files.text import read_text
from vision.report.inputs import read_history
from vision.runs.weights import read_labels
from vision.validate.image_check import _check_once

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


def test_json_is_read_and_its_faults_name_file_and_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, null]}')
    assert read_json(path) == {"a": [1, None]}
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n\nhello\n')
    with pytest.raises(ValueError, match=r"a\.json:3: not JSON"):
        read_json_lines(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_endless_nesting_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: nested too deeply"):
        read_json(path)
    with pytest.raises(ValueError, match=r"a\.yaml: nested too deeply"):
        parse_yaml(text, where="a.yaml")


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"epoch": "1"}', '{"AP": 1}'])
def test_metrics_of_another_form_are_named(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: not the metrics of a run"):
        MetricsLog(tmp_path / "metrics.jsonl")


def test_a_report_says_which_file_of_the_run_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json: not a configuration written by"):
        read_history(tmp_path)
    (tmp_path / "config.json").write_text('{"arguments": {}, "classes": [], "history": []}')
    for content in ("[" * 100_000, "7", '{"loss": 1}', '{"epoch": {}}'):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(ValueError, match=r"metrics\.jsonl: not the metrics of a run"):
            read_history(tmp_path)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_refused(content):
    try:
        parse_json(content, where="a.json")
    except ValueError as error:
        assert str(error).startswith("a.json: ")


@given(st.text(alphabet="ab:-[]{},&*!?|>#%@\"' \n\t\\<", max_size=60) | st.text(max_size=40))
def test_any_text_is_yaml_or_refused(text):
    try:
        parse_yaml(text, where="a.yaml")
    except ValueError as error:
        assert str(error).startswith("a.yaml: ") and "\n" not in str(error)


def bomb(*, levels: int, width: int = 10) -> str:
    """Aliases of aliases: width ** levels entries in `levels` lines."""
    lines = ["a0: &a0 [" + ",".join("x" * width) + "]"]
    for level in range(1, levels):
        aliases = ",".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


def test_yaml_keeps_text_and_takes_aliases():
    text = "train: &where [a, no]\nval: *where\nnc: 01\n" + bomb(levels=4)
    content = parse_yaml(text, where="data.yaml")
    assert content["train"] == content["val"] == ["a", "no"] and content["nc"] == "01"
    assert len(content["a3"]) == 10 and MOST_NODES > 10**4


@pytest.mark.parametrize("text", [bomb(levels=11), "a: &a [x, *a]", "a: &a {b: {c: *a}}"])
def test_aliases_that_expand_without_end_are_refused(text):
    with pytest.raises(ValueError, match=r"data\.yaml: not valid YAML .*with its aliases"):
        parse_yaml(text, where="data.yaml")


@pytest.mark.parametrize("error", [KeyError("a"), IndexError(), TypeError("x"), AttributeError()])
def test_content_of_another_form_names_its_file(error):
    with pytest.raises(ValueError, match=r"a\.json: not of the form") as raised, reading("a.json"):
        raise error
    assert raised.value.__cause__ is error


def test_a_file_of_a_terabyte_is_refused_by_its_name(tmp_path):
    path = tmp_path / "a.jpg"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(OSError, match="has 1,099,511,627,776 bytes") as raised:
        read_regular(path)
    assert raised.value.filename == str(path)
    assert _check_once(str(path)).kind == "too large"
    with pytest.raises(OSError, match="of which at most 67,108,864 are read"):
        read_json(path)
    os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(OSError, match="at most 1,073,741,824"):
        read_regular(path)
    path.write_bytes(b"12345")
    assert read_regular(path, most_bytes=5) == b"12345"


def test_names_are_escaped_and_scripts_with_joiners_are_not():
    persian, family = (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469",
    )
    assert (
        printable(f"{persian} {family} \u00fc\u00a0\u3000")
        == f"{persian} {family} \u00fc\u00a0\u3000"
    )
    assert (
        printable("a\nb\x1b[2J\u202e\x9b\ud800\u2028") == "a\\nb\\x1b[2J\\u202e\\x9b\\ud800\\u2028"
    )
    assert printable_lines("a\n\tb\r\x1b[A\x1b[2J\x07") == "a\n\tb\r\x1b[A\\x1b[2J\\x07"


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9\0\n")
    for read in (read_text, read_labels, read_checksums):
        with pytest.raises(ValueError, match=r"labels\.txt: holds binary data"):
            read(tmp_path / "labels.txt")
