"""The one file that goes to devices: alone in a folder, without torch, with OpenCV or Pillow."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from export_models import CLASSES, TARGETS, opinionated
from PIL import Image
from torchvision.ops import nms

from vision.deploy import Detector, detect
from vision.deploy.device_script import device_script, script_beside
from vision.deploy.torch_detector import TorchDetector
from vision.ops.box_voting import vote_boxes
from vision.ops.nms import PADDING

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAMES = ("cat", "dog", "owl")
THRESHOLD = 0.35


def photo(height: int = 150, width: int = 200) -> np.ndarray:
    """A smooth picture, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def model():
    return opinionated()


@pytest.fixture(scope="module")
def folder(onnx_file):
    """What export_ssd.py leaves for onnxruntime, and a photo."""
    Image.fromarray(photo()).save(onnx_file.parent / "photo.png")
    return onnx_file.parent


@pytest.fixture(scope="module")
def expected(model):
    return TorchDetector(model, CLASSES, threshold=THRESHOLD).predict(photo())


@pytest.fixture
def no_opencv(monkeypatch):
    find_spec = detect.find_spec
    monkeypatch.setattr(detect, "find_spec", lambda name: name != "cv2" and find_spec(name))


def assert_same(found: detect.Detections, expected: detect.Detections) -> None:
    assert 3 < len(found) == len(expected)
    assert found.names == expected.names
    np.testing.assert_array_equal(found.class_id, expected.class_id)
    np.testing.assert_array_equal(found.category_id, expected.category_id)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-3)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.1)


def test_the_file_gives_what_torch_gives(folder, expected):
    detector = Detector.load(folder / "mb2-ssd-lite-onnx.onnx")
    assert detector.names == ["BACKGROUND", *NAMES]
    assert_same(detector.predict(photo()), expected)
    for found in detector.predict([folder / "photo.png", photo()]):
        assert_same(found, expected)


def test_the_script_runs_alone(folder, expected):
    line = [sys.executable, "-I", "detect.py", "photo.png", "--json"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["image"] == "photo.png"
    assert [row["name"] for row in result["detections"]] == expected.names
    boxes = [row["xyxy"] for row in result["detections"]]
    np.testing.assert_allclose(boxes, expected.xyxy, atol=0.2)


def test_a_reader_that_is_gone_is_no_error(folder):
    line = [sys.executable, "-I", "detect.py", "photo.png"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, cwd=folder, text=True, **pipes) as process:
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (141, "")


def test_a_name_that_the_terminal_cannot_show_is_escaped(folder, tmp_path):
    for name in ("a.png", "caf\u00e9.png"):
        shutil.copy(folder / "photo.png", tmp_path / name)
    line = [sys.executable, "detect.py", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(line, cwd=folder, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0 and b"caf\\xe9.png: " in done.stdout, done


@pytest.mark.parametrize("target", [name for name in TARGETS if "int8" not in name])
def test_each_target_has_a_script_of_its_own(model, target, tmp_path, expected):
    """It has the parts for its file, runs there alone, and is for what follows there too."""
    from vision.deploy.export import ExportOptions, build_export

    options = ExportOptions(score_threshold=THRESHOLD)
    build_export(target, model, CLASSES, options, trained_model="x").write(tmp_path)
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    line = [sys.executable, "-I", "detect.py", "photo.png", "--json"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["detections"]
    if target == "jetson":  # the best class of each prior only
        names = {row["name"] for row in found}
        assert names and names <= set(expected.names)
    else:
        assert [row["name"] for row in found] == expected.names
    script = (tmp_path / "detect.py").read_text()
    runtimes = {"onnx": "OnnxRuntime", "openvino": "OpenVino", "tflite": "TfLite"}
    own = runtimes["onnx" if target == "jetson" else target]
    assert [name for name in runtimes.values() if f"class {name}" in script] == [own]
    assert script.count("\n") < 450
    other = {"target": "openvino", "resize": "point", "tiles": 2}
    both = script_beside(tmp_path, other).decode()
    assert all(f"class {name}" in both for name in (own, "OpenVino"))
    assert "def tile_rectangles" in both and "def resize_linear" in both


def test_box_voting_is_that_of_torch():
    """Crowded boxes of two classes, best first; the last ones have scores without a vote."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.3, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.3, 0.6, (60, 2))], axis=1)
    boxes[5, 2:] = boxes[5, :2]  # without area: it overlaps nothing, and stays
    scores = np.linspace(0.9, -0.05, 60).clip(0.001)
    labels = rng.integers(0, 2, 60)
    kept = np.array([0, 3, 5, 20])
    moved = detect.vote(boxes, scores, labels, kept, 0.6)
    chosen = torch.zeros(1, 60, dtype=torch.bool)
    chosen[0, kept] = True
    has_vote = torch.from_numpy(scores > detect.LOWEST_SCORE)
    expected = vote_boxes(
        torch.from_numpy(boxes)[None],
        torch.from_numpy(scores).where(has_vote, torch.tensor(PADDING).double())[None],
        labels=torch.from_numpy(labels)[None],
        chosen=chosen,
        iou_threshold=0.6,
    )
    np.testing.assert_allclose(moved, expected[0, kept], atol=1e-9)
    assert np.abs(moved - boxes[kept]).max(axis=1).tolist()[2] == 0
    assert np.abs(moved - boxes[kept]).max() > 0.01


PARTS = ("onnx", "openvino", "tflite", "jetson", "frigate", "raw_heads", "tiles", "linear", "point")


@pytest.mark.parametrize("resize", ["linear", "point"])
@pytest.mark.parametrize(
    "parts",
    [("onnx",), ("onnx", "jetson"), ("onnx", "tiles"), ("openvino", "frigate"), ("tflite",),
     ("tflite", "raw_heads"), PARTS],
    ids=str,
)  # fmt: skip
def test_no_part_lacks_another(parts, resize, tmp_path):
    (tmp_path / "detect.py").write_text(device_script({*parts, resize}))
    line = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E", "--line-length",
            "100", "detect.py"]  # fmt: skip
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "# end" not in (tmp_path / "detect.py").read_text()


def test_every_part_can_be_wanted():
    source = Path(detect.__file__).read_text()
    wanted = re.findall(r"# only (.+):\n", source)
    assert {part for parts in wanted for part in parts.split(", ")} == set(PARTS)
    assert source.count("# end\n") == len(wanted)


@pytest.fixture(scope="module")
def openvino_file(model, tmp_path_factory):
    """An OpenVINO detector as export_ssd.py writes it, and a photo."""
    pytest.importorskip("openvino")
    from vision.deploy.export import ExportOptions, build_export

    folder = tmp_path_factory.mktemp("openvino")
    Image.fromarray(photo()).save(folder / "photo.png")
    options = ExportOptions(score_threshold=THRESHOLD)
    return build_export("openvino", model, CLASSES, options, trained_model="x").write(folder)


def test_openvino_gives_what_torch_gives(openvino_file, expected):
    assert_same(Detector.load(openvino_file).predict(photo()), expected)


def test_both_parts_of_an_openvino_file_are_needed(openvino_file, tmp_path):
    shutil.copy(openvino_file, tmp_path)
    with pytest.raises(OSError, match=r"mb2-ssd-lite-openvino\.bin"):
        Detector.load(tmp_path / openvino_file.name)


@pytest.mark.parametrize("kind", ["onnx_file", "openvino_file"])
def test_an_exported_file_needs_no_torch(request, kind, folder):
    program = (
        "import sys; from vision.deploy import Detector; "
        "print(len(Detector.load(sys.argv[1]).predict(sys.argv[2]))); "
        "sys.exit('torch' in sys.modules)"
    )
    files = [request.getfixturevalue(kind), folder / "photo.png"]
    line = [sys.executable, "-c", program, *files]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3


def test_a_bad_image_is_passed_over_and_a_folder_read(folder, tmp_path, capsys):
    shutil.copy(folder / "photo.png", tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not an image")
    model = str(folder / "mb2-ssd-lite-onnx.onnx")
    assert detect.main(["--model", model, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'good.png'}: " in out and "notes" not in out + err
    assert err.startswith(f"error: {tmp_path / 'bad.jpg'}: not a readable image (")


@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_hostile_images_are_one_line_each(folder, tmp_path, capsys, request, decoder):
    if decoder == "pillow":
        request.getfixturevalue("no_opencv")
    os.mkfifo(tmp_path / "a pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "evil\x1b[2J\n.jpg").write_bytes(b"")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(1 << 40)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "wide.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    model = str(folder / "mb2-ssd-lite-onnx.onnx")
    assert detect.main(["--model", model, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 5 and "\x1b" not in err
    assert all(line.startswith(f"error: {tmp_path}") for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 7},
        {"classes": [{"name": 3, "category_id": 1}]},
        {"classes": [{"name": "a", "category_id": 10**30}]},
        {"image_size": [10**9, 10**9]},
        {"image_size": "300"},
        {"resize": ["linear"]},
        {"score_threshold": {}},
        {"target": None},
        {"network": ["x"]},
        {"iou_threshold": "x"},
        {"tiles": "x"},
    ],
    ids=str,
)
def test_a_file_that_says_other_than_it_should_is_refused(folder, tmp_path, change):
    import onnx

    model = onnx.load(folder / "mb2-ssd-lite-onnx.onnx")
    for entry in model.metadata_props:
        if entry.key in change:
            entry.value = json.dumps(change[entry.key])
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"x\.onnx: not a detector that export_ssd\.py wrote"):
        detect.FileDetector(tmp_path / "x.onnx")


def test_labels_that_no_class_has_are_one_line(folder, tmp_path, capsys):
    """A file with fewer names than its network has classes; those it has move the cursor."""
    import onnx

    model = onnx.load(folder / "mb2-ssd-lite-onnx.onnx")
    for names in ([], ["\x1b[31m"] * 3):
        for entry in model.metadata_props:
            if entry.key == "classes":
                entry.value = json.dumps([{"name": n, "category_id": 1} for n in names])
        onnx.save(model, tmp_path / "x.onnx")
        argv = ["--model", str(tmp_path / "x.onnx"), str(folder / "photo.png"), "--threshold=0"]
        assert detect.main(argv) == (0 if names else 1)
        out, err = capsys.readouterr()
        assert "\x1b" not in out and err.count("\n") == (0 if names else 1)
    assert "  \\x1b[31m 0." in out


BOX = [[0.1, 0.2, 0.5, 0.6]]


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        (BOX * 2, [1, 2], None),
        ([[0.1, np.nan, 0.5, 0.6], *BOX], [1, 2], "found boxes that are no numbers"),
        ([[0.1, 0.2, np.inf, 0.6], *BOX], [1, 2], "found boxes that are no numbers"),
        (BOX, [1, 2], "cannot be run"),
        (BOX * 2, [[1, 2], [1, 2]], "cannot be run"),
        (BOX * 2, [1, -9], "one of the number -9"),
    ],
)
def test_a_network_of_strange_outputs_is_one_line(folder, tmp_path, boxes, labels, words):
    """Constants instead of a network, in a file that says what a detector's does."""
    import onnx
    from onnx import helper, numpy_helper

    source = onnx.load(folder / "mb2-ssd-lite-onnx.onnx")
    arrays = [
        np.array([boxes], np.float32), np.array([[0.9, 0.8]], np.float32), np.array([labels])
    ]  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], [f"{i}"], value=numpy_helper.from_array(array))
        for i, array in enumerate(arrays)
    ]
    outputs = [
        helper.make_tensor_value_info(
            f"{i}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for i, array in enumerate(arrays)
    ]
    graph = helper.make_graph(nodes, "x", source.graph.input[:1], outputs)
    network = helper.make_model(graph, opset_imports=source.opset_import)
    network.ir_version = source.ir_version
    network.metadata_props.extend(source.metadata_props)
    onnx.save(network, tmp_path / "x.onnx")
    for tiles in (1, 2):
        detector = detect.FileDetector(tmp_path / "x.onnx", threshold=0, tiles=tiles)
        if words is None:
            assert len(detector.predict(photo())) >= 2
            continue
        with pytest.raises(ValueError, match=rf"x\.onnx: .*{words}"):
            detector.predict(photo())


def test_which_model_has_to_be_clear(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detect, "__file__", str(tmp_path / "detect.py"))
    assert detect.main(["photo.png"]) == 1
    assert (
        "no .onnx or .xml or .tflite file there; say which with --model FILE"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("content", [b"", b"garbage"], ids=["empty", "garbage"])
def test_another_file_is_refused(tmp_path, content, suffix):
    if suffix == ".xml":
        pytest.importorskip("openvino")
    path = tmp_path / f"x{suffix}"
    for file in (path, path.with_suffix(".bin")):
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\{suffix}: "):
        Detector.load(path)


def test_an_opset_that_is_too_new_is_named(folder, tmp_path):
    import onnx

    network = onnx.load(folder / "mb2-ssd-lite-onnx.onnx")
    network.opset_import[0].version = 999
    onnx.save(network, tmp_path / "new.onnx")
    words = r"new\.onnx: onnxruntime \S+ cannot load it: export it again, .*999"
    with pytest.raises(ValueError, match=words):
        detect.FileDetector(tmp_path / "new.onnx")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classes", [{"name": "a"}], "not a detector"),
        ("classes", [{"label": 1, "category_id": 1, "name": "a"}], "its description was edited"),
        ("image_size", "a", "not a detector"),
        ("image_size", [7, 7], "Got invalid dimensions"),
        ("image_size", [0.5, 96], "not a detector"),
    ],
)
def test_an_edited_description_is_refused(folder, tmp_path, key, value, words):
    import onnx

    network = onnx.load(folder / "mb2-ssd-lite-onnx.onnx")
    for prop in network.metadata_props:
        if prop.key == key:
            prop.value = json.dumps(value)
    onnx.save(network, tmp_path / "edited.onnx")
    with pytest.raises(ValueError, match=words):
        detect.FileDetector(tmp_path / "edited.onnx", threshold=0).predict(photo())


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)], ids=["gray", "float"]
)
def test_other_arrays_are_refused(folder, image):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        Detector.load(folder / "mb2-ssd-lite-onnx.onnx").predict(image)


@pytest.mark.parametrize("size", [(96, 96), (300, 77), (150, 200)])
def test_resize_is_the_same_without_opencv(no_opencv, size, monkeypatch):
    with_pillow = detect.resize_linear(photo(), size)
    monkeypatch.undo()
    with_opencv = detect.resize_linear(photo(), size)
    assert with_pillow.shape == (*size, 3)
    assert np.abs(with_pillow.astype(int) - with_opencv.astype(int)).max() <= 1


def test_pillow_reads_what_opencv_reads(no_opencv, tmp_path, monkeypatch):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(photo()).save(path, exif=exif)
    with_pillow = detect.read_image(path)
    monkeypatch.undo()
    assert with_pillow.shape == (200, 150, 3)
    np.testing.assert_array_equal(with_pillow, detect.read_image(path))


def test_suppression_is_torchvisions():
    rng = np.random.default_rng(0)
    corner = rng.random((100, 2)) * 0.6
    boxes = np.concatenate([corner, corner + rng.random((100, 2)) * 0.4], axis=1)
    boxes = boxes.astype(np.float32)
    labels = rng.integers(0, 2, 100)
    apart = torch.from_numpy(boxes).double() + 2 * torch.from_numpy(labels)[:, None]
    kept = nms(apart, torch.linspace(1, 0, 100).double(), 0.45)
    assert detect.suppress(boxes, labels, 0.45).tolist() == kept.tolist()
    assert len(kept) < 100


FOUND = detect.Detections(
    xyxy=np.array([[1, 2, 11, 22]], np.float32),
    confidence=np.array([0.5], np.float32),
    class_id=np.array([2]),
    names=["dog"],
    category_id=np.array([20]),
)


def test_to_coco():
    assert FOUND.to_coco(7) == [
        {"image_id": 7, "category_id": 20, "bbox": [1, 2, 10, 20], "score": 0.5}
    ]


def test_to_supervision():
    pytest.importorskip("supervision")
    found = FOUND.to_supervision()
    assert found.xyxy.tolist() == [[1, 2, 11, 22]] and found.class_id.tolist() == [2]
    assert found.data["class_name"].tolist() == ["dog"]
