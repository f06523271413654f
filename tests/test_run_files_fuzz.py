"""Whatever lies in a run folder, a report or an exported file: read, or refused in one line."""

import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from script_runs import tree
from test_checkpoint import make_state
from test_tensor_files import signed

from vision.args import parse_train_args
from vision.command_line import MOST_LETTERS
from vision.datasets.annotation_index import Category, build_index
from vision.datasets.image_files import read_image
from vision.datasets.image_headers import image_size
from vision.datasets.prelabel import order_by_doubt, read_detections
from vision.deploy import detect
from vision.download.coco_archives import read_checksums
from vision.download.unzip import DamagedArchive, UnsafeArchive, extract
from vision.files.printable import printable
from vision.report.inputs import read_history
from vision.runs.checkpoint import read_checkpoint
from vision.runs.run_folder import write_config
from vision.runs.weights import read_labels, read_state_dict
from vision.ssd.models import MODELS
from vision.training.priors import read_priors
from vision.training.saved_args import read_saved_arguments, saved_arguments
from vision.validate.quarantine import restore

pytestmark = pytest.mark.usefixtures("bounded")
SETTINGS = settings(max_examples=25)
CLASSES = [
    {"label": i, "category_id": i, "original_category_id": i, "name": name}
    for i, name in enumerate(("cat", "dog"), start=1)
]
FACTS = {"images": 3, "boxes": 5, "sha256": "0" * 64}
MOVED = {"file": "a.jpg", "moved_to": "a.jpg", "reason": "cut off", "size": 3, "digest": "x"}
FOUND = {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
ABOUT = {
    "target": "onnx", "network": "x", "resize": "linear", "image_size": [96, 96], "tiles": 2,
    "score_threshold": 0.5, "iou_threshold": 0.45, "frigate": False, "raw_heads": False,
    "classes": [{"name": "cat", "category_id": 1, "threshold": 0.5}],
}  # fmt: skip


class NoNetwork:
    """A runtime that says of itself what a JSON file does, and always finds one object."""

    package = "none"

    def __init__(self, path, *, threads):
        about = json.loads(path.read_bytes())
        self.properties = {key: json.dumps(value) for key, value in about.items()}

    def __call__(self, inputs):
        box = np.array([[[0.1, 0.2, 0.5, 0.6]]], np.float32)
        return [box, np.array([[0.9]], np.float32), np.array([[1]])]


def make_run(folder):
    args, _ = parse_train_args(["--datasets", "data", "--checkpoint-folder", "run"])
    config = {"arguments": saved_arguments(args), "classes": CLASSES, "history": []}
    config |= {"data": {"train": FACTS, "val": None}, "versions": {"torch": "2.10"}}
    config |= {"machine": {"cores": 2}, "resumes": [{"epoch": 1, "step": 7}], "job": None}
    config["history"] = [{"changes": {"lr": [0.1, 0.2]}, "epoch": 1, "step": 7}]
    write_config(folder, json.loads(json.dumps(config)))
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "AP": 0.5, "lr": 0.1}\n{"epoch": 2}\n')


def read_run(path):
    history = read_history(path.parent)
    assert len(history.epochs) == len(history.column("AP")) == len(history.records)
    assert all("changes" in entry for entry in history.resumes)
    read_saved_arguments(history.arguments)


def make_report(folder):
    (folder / "images_invalid").mkdir()
    (folder / "images").mkdir()
    (folder / "images_invalid/report.json").write_text(json.dumps({"moved": [MOVED]}))
    (folder / "images_invalid/a.jpg").write_bytes(b"cut")


def read_report(path):
    restore(path.parent.parent / "images", dry_run=True)


def make_found(folder):
    (folder / "found.json").write_text(json.dumps([FOUND]))


def read_found(path):
    index = build_index(
        "x.json", [Category(1, 1, 1, "cat")], image_ids=np.array([1]), file_names=["a.jpg"],
        sizes=np.array([[50, 100]]), rows=np.zeros(0, int), labels=np.zeros(0, int),
        boxes_xywh=np.zeros((0, 4)), areas=np.zeros(0), iscrowd=np.zeros(0, bool),
    )  # fmt: skip
    order_by_doubt(read_detections(path, index), 1)


def make_priors(folder):
    (folder / "priors.json").write_text(json.dumps(MODELS["mb2-ssd-lite"].as_numbers()))


def read_own_priors(path):
    read_priors(path, MODELS["mb2-ssd-lite"])


def make_about(folder):
    (folder / "x.onnx").write_text(json.dumps(ABOUT))


def use_about(path):
    detect.FileDetector(path, threshold=0).predict(np.zeros((20, 30, 3), np.uint8))


def make_labels(folder):
    (folder / "labels.txt").write_text("BACKGROUND\ncat\ndog\n")


def make_checksums(folder):
    (folder / "sums").write_text(f"{'a' * 64}  a.zip\n{'b' * 64} *b.zip\n")


def make_checkpoint(folder):
    signed(make_state(), folder / "checkpoint_epoch_0001.pt")


def make_weights(folder):
    torch.save({"weights": {"a.weight": torch.zeros(2, 3), "b": torch.ones(1)}}, folder / "x.pth")


def image_maker(name, **options):
    def make(folder):
        pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name, **options)

    return make


def read_pixels(path):
    pixels = read_image(path)
    assert pixels.shape[:2] == image_size(path) and pixels.shape[2:] == (3,)


def make_zip(folder):
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", "text" * 30)


def unpack(path):
    (path.parent / "out").mkdir(exist_ok=True)
    extract(path, path.parent / "out")


# Of each file that is not of a data set (those are in test_reader_fuzz.py) what makes and reads it.
FILES = {
    "config.json": (make_run, read_run),
    "metrics.jsonl": (make_run, read_run),
    "labels.txt": (make_labels, read_labels),
    "images_invalid/report.json": (make_report, read_report),
    "found.json": (make_found, read_found),
    "priors.json": (make_priors, read_own_priors),
    "x.onnx": (make_about, use_about),
    "sums": (make_checksums, read_checksums),
    "checkpoint_epoch_0001.pt": (make_checkpoint, read_checkpoint),
    "x.pth": (make_weights, read_state_dict),
    "x.zip": (make_zip, unpack),
    "a.png": (image_maker("a.png"), read_pixels),
    "a.bmp": (image_maker("a.bmp"), read_pixels),
    "a.webp": (image_maker("a.webp"), read_pixels),
    "a.tiff": (image_maker("a.tiff"), read_pixels),
    "a.jpg": (image_maker("a.jpg"), read_pixels),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder beside another one, which must stay as it is."""
    monkeypatch.setitem(detect.RUNTIMES, ".onnx", NoNetwork)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/private.jpg").write_bytes(b"mine")
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def check(place, name, read):
    """Read the file; what is wrong with it is said in one line that names it."""
    before = tree(place.parent / "beside")
    try:
        read(place / name)
    except (ValueError, OSError, DamagedArchive, UnsafeArchive) as error:
        said = printable(str(error))
        assert name.rsplit("/")[-1] in said and "\n" not in said, said
        assert len(said) < 2 * MOST_LETTERS
    assert tree(place.parent / "beside") == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [name for name in FILES if name != "x.onnx"])  # see test_detect.py
def test_any_bytes(place, name):
    make, read = FILES[name]
    make(place)
    read(place / name)
    whole = (place / name).read_bytes()

    @SETTINGS
    @given(data=st.data())
    def damaged(data):
        start = data.draw(st.integers(0, len(whole)) | st.integers(0, min(len(whole), 60)))
        end = data.draw(st.integers(start, min(len(whole), start + 30)) | st.just(len(whole)))
        inserted = data.draw(
            st.binary(max_size=12)
            | st.sampled_from([b"\0", b"\xff\xfe", b"\x1f\x8b\x08", b"-1e400", b"[" * 99, b"NaN"])
        )
        (place / name).write_bytes(whole[:start] + inserted + whole[end:])
        check(place, name, read)

    damaged()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([2**70, 10**400, -1, 0, 1e308, "../../x", "a\nb", "\x1b[2J", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)  # fmt: skip


def places_in(content, path=()):
    """Every place in nested lists and dicts, as a tuple of keys."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places_in(value, (*path, key))


@pytest.mark.parametrize("name", [name for name in FILES if "json" in name or name == "x.onnx"])
def test_any_value_in_any_place(place, name):
    make, read = FILES[name]
    make(place)
    text = (place / name).read_text()
    is_lines = name == "metrics.jsonl"
    whole = [json.loads(line) for line in text.splitlines()] if is_lines else json.loads(text)
    keys = list(places_in(whole))

    @SETTINGS
    @given(data=st.data())
    def edited(data):
        content = json.loads(json.dumps(whole))
        parent, (*above, key) = content, data.draw(st.sampled_from(keys))
        for step in above:
            parent = parent[step]
        if data.draw(st.integers(0, 3)):
            parent[key] = data.draw(VALUES)
        else:
            del parent[key]
        lines = map(json.dumps, content) if is_lines else [json.dumps(content)]
        (place / name).write_text("\n".join(lines))
        check(place, name, read)

    edited()


@SETTINGS
@given(data=st.data())
def test_any_value_in_a_checkpoint(tmp_path_factory, data):
    """Whole by its digest, with other content: the digest is no signature."""
    place = tmp_path_factory.getbasetemp() / "signed/files"
    place.mkdir(parents=True, exist_ok=True)
    (place.parent / "beside").mkdir(exist_ok=True)
    state = make_state()
    tensors = st.sampled_from([torch.zeros(2), torch.zeros(1).expand(10**12), torch.tensor([])])
    for key in data.draw(st.sets(st.sampled_from(list(state)), min_size=1, max_size=2)):
        state[key] = data.draw(VALUES.filter(lambda v: not _has_large_int(v)) | tensors)
    signed(state, place / "checkpoint_epoch_0001.pt")
    check(place, "checkpoint_epoch_0001.pt", read_checkpoint)


def _has_large_int(value):
    """Pickle's protocol 2 holds numbers of at most 255 bytes as torch reads them."""
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        return any(map(_has_large_int, parts))
    return isinstance(value, int) and abs(value) > 2**63
