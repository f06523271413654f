"""Weight files of strangers: what they ask for is checked before anything is computed of it."""

import os
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import build_small
from test_checkpoint import make_state, signed

from vision.runs.checkpoint import read_checkpoint
from vision.runs.load_model import load_for_inference
from vision.runs.run_config import check_config
from vision.runs.tensor_files import load_tensors
from vision.runs.weights import read_state_dict

LAZY = torch.zeros(1).expand(40_000_000_000)  # four bytes in a file, 160 GB once touched


def saved(content, folder):
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [{"w": LAZY}, {"model": {"w": LAZY}}, {"a": [({"w": LAZY},)]}, {"w": torch.nn.Parameter(LAZY)}],
)
def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path, content):
    path = saved(content, tmp_path)
    assert path.stat().st_size < 2000
    for read in (load_tensors, read_state_dict):
        with pytest.raises(ValueError, match=r"weights\.pth: the tensor w has 160,000,000,000 b"):
            read(path)


def test_one_in_a_signed_checkpoint_is_refused(tmp_path):
    for part in ("model", "optimizer", "rng"):
        state = make_state()
        state[part]["lazy"] = LAZY
        signed(state, tmp_path / "checkpoint_epoch_0001.pt")
        with pytest.raises(ValueError, match=r"0001\.pt: the tensor lazy has 160,000,000,000"):
            read_checkpoint(tmp_path / "checkpoint_epoch_0001.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.sparse_coo_tensor(
            torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**12,), check_invariants=False
        ),
        torch.empty(10**12, device="meta"),
    ],
    ids=["sparse", "meta"],
)
def test_tensors_that_are_no_arrays_are_refused(tmp_path, tensor):
    with pytest.raises(ValueError, match=r"weights\.pth: the tensor w is no plain array"):
        load_tensors(saved({"w": tensor}, tmp_path))


def test_ordinary_tensors_are_loaded(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"a": whole, "b": whole.t(), "c": whole[1:, ::2], "empty": torch.zeros(0, 3)}
    content |= {"number": torch.tensor(1), "half": torch.ones(2, dtype=torch.bfloat16)}
    loaded = load_tensors(saved(content, tmp_path))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in content.items())
    itself = [whole]
    itself.append(itself)
    assert torch.equal(load_tensors(saved(itself, tmp_path))[0], whole)
    torch.save(content, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensors(tmp_path / "older.pth")["b"], whole.t())


def test_a_compressed_file_is_not_unpacked(tmp_path):
    path = saved({"w": torch.zeros(1_000_000)}, tmp_path)
    with (
        zipfile.ZipFile(path) as whole,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    assert (tmp_path / "small.pth").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"small\.pth: refused, .*compressed and unpack to 4,00"):
        load_tensors(tmp_path / "small.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(OSError, match="not a regular file"):
        load_tensors(tmp_path / "weights.pth")


def test_a_checkpoint_of_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="has 1,099,511,627,776 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "content", "words"),
    [
        ("classes", [{}], "'classes' was edited (Object missing required field `label`"),
        ("best", {}, "'best' was edited"),
        ("best", {"AP": "x", "epoch": 1}, "'best' was edited"),
        ("progress", {"batches": "x"}, "'progress' was edited"),
        ("config", {"arguments": 1}, "not a configuration written by train_ssd.py"),
    ],
)
def test_parts_of_another_form_are_named(tmp_path, part, content, words):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    signed(make_state() | {part: content}, path)
    with pytest.raises(ValueError, match=r"checkpoint_epoch_0001\.pt: ") as raised:
        read_checkpoint(path)
    assert words in str(raised.value)


CONFIG = {"arguments": {"seed": 3}, "classes": [], "history": []}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"versions": "torch numpy"}, "$.versions"),
        ({"machine": 5}, "$.machine"),
        ({"data": {"train": 3}}, "$.data[...]"),
        ({"data": {"val": {"images": 3, "boxes": 2}}}, "$.data[...]"),
        ({"history": [{"changes": {"lr": 1}}]}, "$.history[0].changes[...]"),
    ],
)
def test_a_configuration_of_another_form_says_where(changes, where):
    check_config(CONFIG, where="here")
    with pytest.raises(ValueError, match="here: not a configuration") as raised:
        check_config(CONFIG | changes, where="here")
    assert where in str(raised.value)


VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(st.sampled_from([*CONFIG, "versions", "machine", "data", "job"]), VALUES)
def test_any_value_in_a_configuration_is_taken_or_refused(name, value):
    try:
        check_config(CONFIG | {name: value}, where="here")
    except ValueError as error:
        assert str(error).startswith("here: ")


@pytest.fixture(scope="module")
def whole():
    """The content of a checkpoint of a small network."""
    names = ("cat", "dog")
    classes = [
        {"label": i, "category_id": i, "original_category_id": i, "name": name}
        for i, name in enumerate(names, start=1)
    ]
    arguments = {"net": "mb2-ssd-lite", "image_size": [96, 96], "mb2_width_mult": 0.25}
    arguments["prior_sizes"] = None
    config = {"arguments": arguments, "classes": classes, "history": []}
    model = dict(build_small("mb2-ssd-lite").state_dict())
    return make_state() | {"model": model, "config": config, "classes": classes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"net": "yolo"}, "unknown network 'yolo'"),
        ({"net": ["a"]}, "unhashable"),
        ({"image_size": ["a", 96]}, "Expected `int`, got `str` - at `$.image_size[0]`"),
        ({"image_size": [10**9, 96]}, "each side must be 16384 px or less"),
        ({"image_size": [96]}, "of length 2, got 1 - at `$.image_size`"),
        ({"mb2_width_mult": 2**1100}, "int too large to convert to float"),
        ({"image_size": 3}, "Expected `array | null`, got `int` - at `$.image_size`"),
        ({"mb2_width_mult": "x"}, "not supported between"),
        ({"mb2_width_mult": 1e6}, "must be between 0.1 and 10"),
        ({"mb2_width_mult": 1.0}, "of another shape, such as"),
        ({"prior_sizes": [float("nan")] * 7}, "growing shares of the image"),
        (None, "its configuration lacks 'net'"),
    ],
)
def test_arguments_that_a_stranger_edited_are_named(tmp_path, whole, changes, words):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    arguments = {} if changes is None else whole["config"]["arguments"] | changes
    signed(whole | {"config": whole["config"] | {"arguments": arguments}}, path)
    with pytest.raises(ValueError, match=r"checkpoint_epoch_0001\.pt: ") as raised:
        load_for_inference(path)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"priors": [{"shapes": [[0.2, 0.2]] * 6, "stride": 2**1100, "clamp_centers": True}] * 6},
        {"priors": [{"shapes": [[0.2, 0.2]] * 10**5, "stride": 16, "clamp_centers": True}] * 6},
        {"normalization": {"mean": [2**1100] * 3, "std": [1] * 3}},
    ],
)
def test_numbers_that_a_stranger_edited_are_named(tmp_path, whole, changes):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    signed(whole | changes, path)
    with pytest.raises(ValueError, match=r"0001\.pt: its priors, normalization, .* are not what"):
        load_for_inference(path)


@pytest.mark.parametrize(
    "change", [{"name": "\ud800"}, {"category_id": "a"}, {"category_id": 2**63}]
)
@pytest.mark.parametrize("in_config", [True, False])
def test_a_class_that_no_exported_file_could_hold_is_named(tmp_path, whole, change, in_config):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    classes = [whole["classes"][0] | change, whole["classes"][1]]
    changes = (
        {"config": whole["config"] | {"classes": classes}} if in_config else {"classes": classes}
    )
    signed(whole | changes, path)
    with pytest.raises(ValueError, match=r"0001\.pt: "):
        load_for_inference(path)


@pytest.mark.parametrize("weight", [torch.zeros(3), "x", None])
def test_a_weight_of_another_form_is_named(tmp_path, whole, weight):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    signed(whole, path)
    assert load_for_inference(path)[1] == whole["classes"]
    name = "base_net.0.0.weight"
    model = {key: value for key, value in whole["model"].items() if key != name}
    signed(whole | {"model": model if weight is None else model | {name: weight}}, path)
    with pytest.raises(ValueError, match=r"0001\.pt: its weights are not .*such as base_net\.0\.0"):
        load_for_inference(path)
