"""Checkpoint files: whole or refused, safe to load, the newest intact one found."""

import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vision.runs.checkpoint import (
    BEST,
    FORMAT,
    LAST,
    epoch_path,
    find_newest,
    link_or_copy,
    list_checkpoints,
    position_of,
    read_checkpoint,
    serialize,
    step_path,
)
from vision.runs.checkpoint_writer import CheckpointWriter
from vision.runs.tensor_files import load_tensors
from vision.runs.weights import read_state_dict


def make_state(*, epoch=1, step=10, value=0.0) -> dict:
    """A checkpoint with every key, of a network of two numbers."""
    return {
        "format": FORMAT,
        "model": {"weight": torch.tensor([value, 1.0])},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        "scheduler": {"kind": "none", "total_steps": 100},
        "scaler": {},
        "ema": None,
        "rng": {"torch": torch.arange(9, dtype=torch.uint8), "cuda": []},
        "epoch": epoch,
        "step": step,
        "best": {"AP": 0.25, "epoch": 1},
        "progress": {"batches": 0, "loss": 0.1},
        "config": {"arguments": {"seed": 3}, "classes": [], "history": []},
        "classes": [{"label": 1, "category_id": 7, "original_category_id": 9, "name": "cat"}],
    }


class CreatesFile:
    """An object whose loading would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def signed(content: object, path: Path) -> None:
    """Write anything with a valid digest, as a stranger could."""
    path.write_bytes(serialize(content))


def test_what_was_saved_is_read_again(tmp_path):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    state = make_state(value=-0.1)
    signed(state, path)
    read = read_checkpoint(path)
    assert list(read) == list(state)
    assert torch.equal(read["model"]["weight"], torch.tensor([-0.1, 1.0]))
    assert read["best"] == {"AP": 0.25, "epoch": 1} and read["ema"] is None
    assert read["classes"] == state["classes"]


def test_other_programs_can_read_the_file(tmp_path):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    signed(make_state(), path)
    assert torch.load(path, weights_only=True)["step"] == 10
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    """In headers, pickle, tensors, the zip's directory, its last record and the digest."""
    path = tmp_path / "checkpoint_epoch_0001.pt"
    whole = serialize(make_state())
    for position in [*range(0, len(whole) - 200, 11), *range(len(whole) - 200, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint_epoch_0001\.pt: "):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 1, 22, 93, 1000, 0.5, -1, -22, -73, -93])
def test_a_file_cut_short_is_refused(tmp_path, length):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    whole = serialize(make_state())
    path.write_bytes(whole[: int(length * len(whole)) if length == 0.5 else length])
    with pytest.raises(ValueError, match=r"0001\.pt: (the file is empty|cut short)"):
        read_checkpoint(path)


def test_bytes_appended_are_refused(tmp_path):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    path.write_bytes(serialize(make_state()) + b"\0")
    with pytest.raises(ValueError, match="cut short, or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        ([1, 2], "not a checkpoint in the format"),
        ({"epoch": 3, "weights": {}}, "not a checkpoint in the format"),
        ({k: v for k, v in make_state().items() if k != "rng"}, "lacks rng"),
        ({**make_state(), "epoch": "../../1"}, "lacks epoch"),
        ({**make_state(), "step": -1}, "lacks a valid place"),
        ({**make_state(), "model": [torch.zeros(1)]}, "lacks model"),
        ({k: v for k, v in make_state().items() if k != "ema"}, "lacks ema"),
        ({**make_state(), "classes": [torch.zeros(0)]}, r"0001\.pt: .*'classes' was edited"),
        ({**make_state(), "tiles": torch.ones(2)}, r"0001\.pt: .*'tiles' was edited"),
        ({**make_state(), "progress": "\ud800"}, "lacks progress"),
        ({**make_state(), "progress": {"loss": "\ud800"}}, r"0001\.pt: .*'progress' was edited"),
    ],
    ids=[
        "list",
        "fork",
        "key absent",
        "epoch a text",
        "step negative",
        "model a list",
        "no ema",
        "a tensor in a list",
        "a tensor as a number",
        "a text",
        "half of a letter",
    ],
)
def test_a_signed_file_of_another_content_is_refused(tmp_path, content, reason):
    path = tmp_path / "checkpoint_epoch_0001.pt"
    signed(content, path)
    with pytest.raises(ValueError, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "pickle"])
def test_a_file_that_would_run_code_is_refused(tmp_path, zip_format):
    trap, path = tmp_path / "trap", tmp_path / "evil.pth"
    content = {"weights": CreatesFile(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    for read in (load_tensors, read_state_dict):
        with pytest.raises(ValueError, match=r"evil\.pth: refused, it holds Python objects"):
            read(path)
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert trap.exists()


def test_a_checkpoint_that_would_run_code_is_passed_over(tmp_path):
    trap = tmp_path / "trap"
    signed(make_state(epoch=1), epoch_path(tmp_path, 1))
    signed({**make_state(epoch=2), "ema": CreatesFile(trap)}, epoch_path(tmp_path, 2))
    path, _, skipped = find_newest(tmp_path)
    assert path == epoch_path(tmp_path, 1)
    assert len(skipped) == 1 and "refused" in skipped[0] and "epoch_0002.pt" in skipped[0]
    assert not trap.exists()


def test_the_newest_intact_file_is_found(tmp_path):
    for epoch in (1, 2):
        signed(make_state(epoch=epoch), epoch_path(tmp_path, epoch))
    epoch_path(tmp_path, 3).write_bytes(b"")
    step_path(tmp_path, 4, 33).write_bytes(serialize(make_state())[:-5])
    epoch_path(tmp_path, 4).write_bytes(b"GIF89a")
    path, state, skipped = find_newest(tmp_path)
    assert path == epoch_path(tmp_path, 2) and state["epoch"] == 2
    named = [Path(line.partition(": ")[0]).name for line in skipped]
    assert named == [
        "checkpoint_epoch_0004.pt",
        "checkpoint_epoch_0004_step_00000033.pt",
        "checkpoint_epoch_0003.pt",
    ]


@pytest.mark.parametrize("name", [LAST, BEST])
def test_another_name_of_a_deleted_file_is_found(tmp_path, name):
    signed(make_state(epoch=3), tmp_path / name)
    assert find_newest(tmp_path)[0] == tmp_path / name
    signed(make_state(epoch=2), epoch_path(tmp_path, 2))
    newest = {LAST: tmp_path / LAST, BEST: epoch_path(tmp_path, 2)}
    assert find_newest(tmp_path)[0] == newest[name]
    signed(make_state(epoch=4), epoch_path(tmp_path, 4))
    assert find_newest(tmp_path)[0] == epoch_path(tmp_path, 4)
    epoch_path(tmp_path, 4).write_bytes(b"")
    (tmp_path / name).unlink()
    (tmp_path / name).hardlink_to(epoch_path(tmp_path, 4))
    path, _, skipped = find_newest(tmp_path)
    assert path == epoch_path(tmp_path, 2) and len(skipped) == 1


def test_no_intact_file_is_an_error_that_names_all(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint there \(looked for checkpoint_epoch_"):
        find_newest(tmp_path)
    for epoch in (1, 2):
        epoch_path(tmp_path, epoch).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no intact checkpoint.*0002\.pt.*0001\.pt"):
        find_newest(tmp_path)


def test_a_checkpoint_inside_an_epoch_comes_before_its_end(tmp_path):
    names = [step_path(tmp_path, 4, 31), step_path(tmp_path, 4, 40), epoch_path(tmp_path, 4)]
    names = [epoch_path(tmp_path, 3), *names, epoch_path(tmp_path, 10), epoch_path(tmp_path, 10000)]
    for path in (*names, tmp_path / "checkpoint_epoch_1.pt", tmp_path / "checkpoint_best.pt"):
        path.touch()
    assert list_checkpoints(tmp_path) == names[::-1]
    assert position_of(names[1]) == (4, 0, 31) and position_of(tmp_path / "x.pt") == ()


def test_links_follow_the_newest_file(tmp_path):
    last = tmp_path / "checkpoint_last.pt"
    for content in (b"one", b"two"):
        target = tmp_path / f"{content.decode()}.pt"
        target.write_bytes(content)
        link_or_copy(target, last)
        link_or_copy(target, last)
        assert last.read_bytes() == content and last.samefile(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [last.name, "one.pt", "two.pt"]


def test_the_state_at_the_call_is_what_is_written(tmp_path):
    writer, state = CheckpointWriter(), make_state()
    state["model"]["weight"] = torch.zeros(1000, 1000)
    writer.save(state, epoch_path(tmp_path, 1), links=[tmp_path / "checkpoint_last.pt"])
    state["model"]["weight"] += 1
    state["best"]["AP"] = 0.5
    writer.join()
    assert writer.last_path == epoch_path(tmp_path, 1)
    read = read_checkpoint(tmp_path / "checkpoint_last.pt")
    assert not read["model"]["weight"].any() and read["best"]["AP"] == 0.25


def test_a_write_that_failed_is_raised_without_waiting_for_the_next(tmp_path):
    writer = CheckpointWriter()
    writer.save(make_state(), tmp_path / "absent" / "checkpoint_epoch_0001.pt")
    with pytest.raises(OSError, match=r"absent/checkpoint_epoch_0001\.pt: could not .* MB are"):
        while True:
            writer.poll()
            time.sleep(0.01)
    writer.poll()  # said once
    writer.save(make_state(), epoch_path(tmp_path, 2))
    writer.join()
    assert list_checkpoints(tmp_path) == [epoch_path(tmp_path, 2)]


def test_what_weights_only_would_refuse_is_not_saved(tmp_path):
    state = make_state() | {"best": {"AP": np.float64(0.5), "epoch": 1}}
    with pytest.raises(AssertionError, match="in a checkpoint"):
        CheckpointWriter().save(state, epoch_path(tmp_path, 1))
