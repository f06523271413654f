"""export_ssd.py and onnx_export.py as a user runs them, and eval_ssd.py on what they write."""

import json
import shutil
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
import yaml
from export_models import CLASSES, opinionated, pixels
from script_runs import call, tree

from vision.datasets.layouts.choose import open_split
from vision.evaluation.coco_boxes import Detections, GroundTruth
from vision.evaluation.exported import thresholded

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from vision.deploy import quantize as quantization  # noqa: E402
from vision.deploy.compare import drops, table  # noqa: E402
from vision.deploy.detect import FileDetector  # noqa: E402
from vision.deploy.detectnet import DetectNet  # noqa: E402
from vision.deploy.export import ExportOptions, build_export  # noqa: E402
from vision.deploy.export_form import PIXELS, RescaledInput  # noqa: E402
from vision.deploy.int8_weights import conv_names  # noqa: E402
from vision.deploy.quantize import all_scores, groups  # noqa: E402
from vision.deploy.torch_detector import TorchDetector  # noqa: E402
from vision.runs.load_model import load_for_inference  # noqa: E402

NAMES = ("cat", "dog", "owl")
TARGETS = ("jetson", "onnx", "onnx-int8")
if find_spec("openvino"):
    TARGETS += ("openvino", "openvino-int8")


def draw_split(root, split: str, count: int) -> None:
    """Smooth pictures with a box of each class."""
    rng = np.random.default_rng(len(split))
    images, annotations = [], []
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for i in range(1, count + 1):
        pixels = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (160, 120))
        cv2.imwrite(str(root / split / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "height": 120, "width": 160})
        for k in range(len(NAMES)):
            box = [10 * k, 5, 60 + 10 * k, 50 + 20 * k]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": 10 * k + 5,
                 "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": 10 * k + 5, "name": name} for k, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    draw_split(root, "train", 4)
    draw_split(root, "val", 3)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of the family with its labels.txt, of scores around 0.4."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(opinionated().state_dict(), folder / "net.pth")
    (folder / "labels.txt").write_text("\n".join(["BACKGROUND", *NAMES, ""]))
    return folder / "net.pth"


@pytest.fixture(scope="module")
def flags(weights):
    return ["--trained-model", weights, "--net", "mb2-ssd-lite", "--image-size", "96"]


@pytest.fixture(scope="module")
def exported(root, flags, tmp_path_factory):
    """One call for all targets: what it said, and the folder."""
    folder = tmp_path_factory.mktemp("exported")
    done = call(
        "export_ssd", *flags, "--target", *TARGETS, "--dataset", root,
        "--output-dir", folder, "--score-threshold", 0.4, "--keep-float", "base_net.0",
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    return done, folder


def test_what_is_written(exported):
    done, folder = exported
    files = {
        f"mb2-ssd-lite-{target}.{suffix}"
        for target in TARGETS
        for suffix in ("json", *(("xml", "bin") if "openvino" in target else ("onnx",)))
    }
    assert set(tree(folder)) == files | {"labels.txt", "detect.py", "deployment.json"}
    assert (folder / "labels.txt").read_text() == "BACKGROUND\ncat\ndog\nowl\n"
    assert (
        "detectnet --model=mb2-ssd-lite-jetson.onnx --labels=labels.txt --input-blob=input_0 "
        "--output-cvg=scores --output-bbox=boxes --threshold=0.4 "
    ) in done.out
    rows = json.loads((folder / "deployment.json").read_text())
    assert [row["target"] for row in rows] == ["pytorch", *TARGETS]
    for row in rows:
        assert {"file", "megabytes", "AP", "AP50", "precision", "recall", "ms"} <= row.keys()
    assert all(line in done.out for line in table(rows))


def test_each_file_says_what_it_is(exported):
    _, folder = exported
    rows = {row["file"]: row for row in json.loads((folder / "deployment.json").read_text())}
    for path in (folder / row["file"] for row in rows.values() if row["file"]):
        about = json.loads(path.with_suffix(".json").read_text())
        properties = FileDetector(path).raw.properties
        if path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path))
        assert {key: json.loads(properties[key]) for key in about} == about
        assert [item["name"] for item in about["classes"]] == list(NAMES)
        assert about["image_size"] == [96, 96] and about["score_threshold"] == 0.4
        assert about["measured"]["AP"] == rows[path.name]["AP"]
        assert about["measured"]["split"] == "val" and about["measured"]["images"] == 3


def test_int8_is_where_it_should_be(exported, weights):
    _, folder = exported
    model = onnx.load(folder / "mb2-ssd-lite-onnx-int8.onnx")
    reads = {node.name: node.input for node in model.graph.node}
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    network, *_ = load_for_inference(weights, net="mb2-ssd-lite", image_size=(96, 96))
    found = groups(model, conv_names(network))
    assert {"base_net.0", "regression_headers.0"} < found.keys()
    for group, names in found.items():
        is_float = group == "base_net.0"
        for name in names:
            kinds = {made_by.get(reads[name][1])}
            assert kinds == ({None} if is_float else {"DequantizeLinear"}), name
    largest = {True: 0, False: 0}
    for node, weight in int8_weights(model):
        is_depthwise = any(item.name == "group" and item.i > 1 for item in node.attribute)
        largest[is_depthwise] = max(largest[is_depthwise], np.abs(weight.astype(int)).max())
    assert largest == {True: 127, False: 64}  # see LARGEST_ON_X86
    used = {name for names in reads.values() for name in names}
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    assert all(node.output[0] in used for node in constants)  # onnxruntime would warn of them
    about = json.loads((folder / "mb2-ssd-lite-onnx-int8.json").read_text())
    assert about["float_layers"] == ["base_net.0"]
    sizes = [
        (folder / f"mb2-ssd-lite-{name}.onnx").stat().st_size for name in ("onnx", "onnx-int8")
    ]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("target", TARGETS)
def test_eval_measures_the_file(exported, root, tmp_path, target):
    _, folder = exported
    (row,) = (
        row
        for row in json.loads((folder / "deployment.json").read_text())
        if row["target"] == target
    )
    done = call(
        "eval_ssd", "--trained-model", folder / row["file"], "--dataset", root,
        "--output-dir", tmp_path, *(["--score-threshold", 0.4] if target == "jetson" else []),
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(row["AP"])
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "mb2-ssd-lite, 96x96, 3 classes" in report and "<dt>priors" not in report
    assert f'id="AP" data-value="{metrics["AP"]}"' in report and "export_ssd.py" not in report
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert len(detections) > 3
    assert {item["category_id"] for item in detections} <= {5, 15, 25}
    assert {item["image_id"] for item in detections} == {1, 2, 3}


def test_a_file_finds_what_torch_finds(exported, weights, root):
    """With the golden network's numbers in docs/deployment.md; here box by box."""
    _, folder = exported
    model, classes, _ = load_for_inference(weights, net="mb2-ssd-lite", image_size=(96, 96))
    expected = TorchDetector(model, classes, threshold=0.4)
    image = cv2.imread(str(root / "val/1.png"))[:, :, ::-1].copy()
    wanted = expected.predict(image)
    found = FileDetector(folder / "mb2-ssd-lite-onnx.onnx").predict(image)
    assert 3 < len(found) == len(wanted)
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.1)
    jetson = FileDetector(folder / "mb2-ssd-lite-jetson.onnx", threshold=0.4).predict(image)
    assert len(jetson) > 3
    np.testing.assert_allclose(jetson.xyxy[0], wanted.xyxy[0], atol=0.1)
    assert jetson.names[0] == wanted.names[0]
    with pytest.raises(ValueError, match="export it with --target jetson"):
        DetectNet(FileDetector(folder / "mb2-ssd-lite-onnx.onnx"))


def test_openvino_gives_what_onnxruntime_gives(exported, root):
    pytest.importorskip("openvino")
    wanted, found = (
        FileDetector(exported[1] / file, threshold=0.05).predict(root / "val/1.png")
        for file in ("mb2-ssd-lite-onnx.onnx", "mb2-ssd-lite-openvino.xml")
    )
    assert len(found) > 3 and found.names == wanted.names
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-5)
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.01)


def test_openvino_int8_is_in_int8(exported):
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(exported[1] / "mb2-ssd-lite-openvino-int8.xml")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert kinds.count("u8") + kinds.count("i8") > len(kinds) / 2


def test_each_class_gets_its_threshold(flags, root, tmp_path):
    """The scores of best F1 lie where those of the three boxes of an image are."""
    done = call(
        "export_ssd", *flags, "--target", "onnx", "jetson", "--dataset", root,
        "--output-dir", tmp_path, "--min-precision", 0.05,
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    about = json.loads((tmp_path / "mb2-ssd-lite-onnx.json").read_text())
    chosen = {}
    for item in about["classes"]:
        assert item["thresholds"].keys() <= {"best_f1", "at_precision"}
        preferred = item["thresholds"].get("at_precision", item["thresholds"].get("best_f1"))
        assert item.get("threshold") == preferred
        chosen[item["name"]] = preferred or 0.5
        assert f"{item['name']}, best F1: " in done.err
        assert f"{item['name']}, precision 0.05: " in done.err
    assert len(set(chosen.values())) > 1
    assert f"--threshold={min(chosen.values()):g} " in done.out
    for target in ("onnx", "jetson"):
        file = tmp_path / f"mb2-ssd-lite-{target}.onnx"
        everything = FileDetector(file, threshold=0).predict(root / "val/1.png")
        found = FileDetector(file).predict(root / "val/1.png")
        wanted = [
            score
            for score, name in zip(everything.confidence, everything.names, strict=True)
            if score >= chosen[name]
        ]
        assert found.confidence.tolist() == wanted and 0 < len(wanted) < len(everything)


def test_a_score_that_is_given_counts_for_every_class(exported):
    about = json.loads((exported[1] / "mb2-ssd-lite-onnx.json").read_text())
    assert about["score_threshold"] == 0.4
    assert all("thresholds" in item and "threshold" not in item for item in about["classes"])


@pytest.fixture(scope="module")
def frigate(flags, tmp_path_factory):
    """What a call with --frigate printed, and its file."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("frigate")
    done = call("export_ssd", *flags, "--target", "openvino", "--frigate", "--output-dir", folder)
    assert (done.code, done.errors) == (0, []), done.err
    return done.out, folder / "mb2-ssd-lite-openvino.xml"


def test_frigate_reads_the_file(frigate, exported, root):
    """As frigate/detectors/plugins/openvino.py does: one uint8 NHWC BGR input, one [1, 1, N, 7]."""
    import openvino

    model = openvino.Core().read_model(frigate[1])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (entry,), (output,) = compiled.inputs, compiled.outputs
    assert list(entry.shape) == [1, 96, 96, 3]
    assert (output.shape[0], output.shape[1], output.shape[3]) == (1, 1, 7)
    bgr = cv2.imread(str(root / "val/1.png"))
    request = compiled.create_infer_request()
    request.infer(openvino.Tensor(array=cv2.resize(bgr, (96, 96))[None]))
    rows = request.get_output_tensor(0).data[0][0]
    assert (np.diff(rows[:, 2]) <= 0).all()
    assert ((rows[:, 0] == 0) == (rows[:, 2] > 0)).all()
    rows = rows[rows[:, 0] == 0]
    wanted = FileDetector(exported[1] / "mb2-ssd-lite-onnx.onnx", threshold=0)
    wanted = wanted.predict(root / "val/1.png")
    labels = frigate[1].with_name("labels.txt").read_text().split()
    assert len(rows) > 3 and [labels[int(label)] for label in rows[:, 1]] == wanted.names
    np.testing.assert_allclose(rows[:, 3:] * [160, 120, 160, 120], wanted.xyxy, atol=0.01)
    found = FileDetector(frigate[1], threshold=0).predict(root / "val/1.png")
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.01)


def test_frigates_configuration(frigate):
    out, path = frigate
    config = yaml.safe_load(out.split("/config/model_cache:\n")[1])
    assert config["model"]["path"] == f"/config/model_cache/{path.name}"
    assert (config["model"]["width"], config["model"]["input_pixel_format"]) == (96, "bgr")
    assert config["objects"]["track"] == list(NAMES)
    assert config["objects"]["filters"]["owl"] == {"min_score": 0.5, "threshold": 0.5}


def test_frigate_wants_squares(flags, tmp_path):
    pytest.importorskip("openvino")
    done = call(
        "export_ssd", *flags, "--image-size", "96x128", "--target", "openvino", "--frigate",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1 and len(done.errors) == 1
    assert "wants a square input, this network has 96x128" in done.errors[0]
    assert not (tmp_path / "out").exists()


def test_the_command_line_of_jetson_inference(weights, tmp_path):
    for loss in ("9.5", "10.25"):
        shutil.copy(weights, tmp_path / f"mb2-ssd-lite-Epoch-3-Loss-{loss}.pth")
    shutil.copy(weights.with_name("labels.txt"), tmp_path)
    done = call(
        "onnx_export", "--net", "mb2-ssd-lite", "--model_dir", tmp_path, "--resolution", 96,
        "--output", tmp_path / "out/fruit.onnx",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "--model=fruit.onnx" in done.out
    about = json.loads((tmp_path / "out/fruit.json").read_text())
    assert about["trained_model"] == "mb2-ssd-lite-Epoch-3-Loss-9.5.pth"
    assert about["measured"] is None and about["suppressed"]
    assert (tmp_path / "out/fruit.onnx").is_file()


@pytest.mark.parametrize(
    ("script", "argv", "code", "message"),
    [
        ("export_ssd", ["--target", "coral"], 2, "--target"),
        ("export_ssd", ["--target", "onnx-int8"], 2, "--target onnx-int8 needs --dataset"),
        (
            "export_ssd",
            ["--target", "onnx", "--frigate"],
            2,
            "--frigate is about --target openvino",
        ),
        ("export_ssd", ["--target", "onnx", "--max-drop", "0.1"], 2, "give --dataset"),
        ("export_ssd", ["--target", "onnx", "--min-precision", "0.9"], 2, "give --dataset"),
        ("export_ssd", ["--target", "onnx", "--plain"], 2, "--plain is about --target jetson"),
        ("export_ssd", ["--target", "onnx", "--net", "mb2-ssd"], 1, "not weights of mb2-ssd"),
        ("export_ssd", ["--target", "onnx", "--label-file", "/no/labels"], 1, "/no/labels"),
        ("export_ssd", ["--target", "onnx", "--dataset", "/no/data"], 1, "/no/data"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(weights, flags, script, argv, code, message):
    before = tree(weights.parent)
    done = call(script, *flags, *argv)
    assert (done.code, done.out) == (code, ""), done.err
    assert len(done.errors) == 1 and message in done.errors[0]
    assert tree(weights.parent) == before


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--batch-size", 2], 2, "--batch-size must be 1"),
        (["--width", 96], 2, "--width and --height"),
        (["--output", "fruit.txt"], 2, "--output must end in .onnx"),
        ([], 1, "neither a run (config.json) nor a file NET-Epoch-E-Loss-L.pth"),
        (["--input", "no.pth"], 1, "no.pth: no such file"),
    ],
)
def test_bad_input_of_onnx_export(tmp_path, argv, code, message):
    done = call("onnx_export", "--model-dir", tmp_path, *argv)
    assert done.code == code and len(done.errors) == 1 and message in done.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--iou-threshold", 0.4], 2, "--iou-threshold: an exported file has its own"),
        (["--runtime", "detectnet"], 1, "export it with --target jetson"),
        (["--clustering", 0.5], 1, "--clustering is about --runtime detectnet"),
        (["--runtime", "openvino"], 1, "mb2-ssd-lite-onnx.onnx is for onnxruntime"),
    ],
)
def test_eval_refuses_what_a_file_cannot_do(exported, root, argv, code, message):
    file = exported[1] / "mb2-ssd-lite-onnx.onnx"
    done = call("eval_ssd", "--trained-model", file, "--dataset", root, *argv)
    assert done.code == code and len(done.errors) == 1 and message in done.errors[0]


@pytest.mark.parametrize("place", ["a file", "below a file", "where the file is a folder"])
def test_places_that_cannot_be_written_are_found_before_the_work(flags, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "x.onnx").mkdir()
    argv = {
        "a file": ["--output", tmp_path / "file/x.onnx"],
        "below a file": ["--output", tmp_path / "file/below/x.onnx"],
        "where the file is a folder": ["--output", tmp_path / "x.onnx"],
    }[place]
    _, weights, *others = flags
    before = tree(tmp_path)
    done = call("onnx_export", "--input", weights, *others, *argv)
    assert done.code == 1 and len(done.errors) == 1, done.err
    wanted = "x.onnx: a folder" if place.endswith("folder") else f"{tmp_path / 'file'}: a file"
    assert wanted in done.errors[0]
    assert tree(tmp_path) == before


def test_another_networks_weights_are_named(weights, tmp_path):
    done = call(
        "export_ssd", "--trained-model", weights, "--net", "vgg16-ssd", "--target", "onnx",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1 and "not weights of vgg16-ssd" in done.errors[0]


def test_calibration_images_that_are_gone(root, flags, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    shutil.rmtree(copy / "train")
    (copy / "train").mkdir()
    done = call(
        "export_ssd", *flags, "--target", "onnx-int8", "--dataset", copy,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1 and len(done.errors) == 1
    assert "--calibration-split names another" in done.errors[0]
    assert not (tmp_path / "out").exists()


def test_unknown_float_layers_are_named(root, flags, tmp_path):
    done = call(
        "export_ssd", *flags, "--target", "onnx-int8", "--dataset", root, "--keep-float", "stem",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1 and "--keep-float stem: no such layers; there are base_net.0," in done.err
    assert not (tmp_path / "out").exists()


def test_layers_that_change_the_scores_most_stay_float_with_their_own_weights(monkeypatch):
    model = opinionated()
    images = list(pixels(model, num_images=4).numpy())
    changes = {}

    def look(*args):
        changes.update(score_changes(*args))
        return changes

    def build():
        options = ExportOptions(calibration=images)
        return build_export("onnx-int8", model, CLASSES, options, trained_model="-")

    score_changes = quantization._score_changes
    monkeypatch.setattr(quantization, "_score_changes", look)
    build()
    *_, third, second, first = sorted(changes, key=changes.get)
    monkeypatch.setattr(quantization, "MOST_CHANGED", (changes[third] + changes[second]) / 2)
    export = build()
    assert set(export.about["float_layers"]) == {first, second}
    file = onnx.load_from_string(export.encode(export.about)[".onnx"])
    float_file = build_export("onnx", model, CLASSES, ExportOptions(), trained_model="-")
    expected = onnx.load_from_string(float_file.encode(float_file.about)[".onnx"])
    layers = conv_names(model)
    for group, names in groups(expected, layers).items():
        for name in names:
            own, wanted = (weights_of(each, name) for each in (file, expected))
            is_own = own is not None and np.array_equal(own, wanted)
            assert is_own == (group in export.about["float_layers"]), name


@torch.no_grad()
def test_layers_are_compared_over_all_priors():
    model = opinionated()
    images = pixels(model, num_images=2)
    export = build_export("onnx", model, CLASSES, ExportOptions(), trained_model="-")
    file = onnx.load_from_string(export.encode(export.about)[".onnx"])
    logits, _ = RescaledInput(model, fed_as=PIXELS)(images.permute(0, 3, 1, 2).float())
    found = all_scores(file, list(images.numpy()))[:, 0]
    np.testing.assert_allclose(found, logits.softmax(dim=-1), atol=1e-4)


def test_float_layers_are_looked_for_once_and_openvino_has_no_convolution_of_four_pixels(
    monkeypatch,
):
    openvino = pytest.importorskip("openvino")
    model = opinionated()
    searches = []
    score_changes = quantization._score_changes

    def look(*args):
        searches.append(score_changes(*args))
        return searches[-1]

    monkeypatch.setattr(quantization, "_score_changes", look)
    monkeypatch.setattr(quantization, "MOST_CHANGED", 1.0)  # nothing stays float
    options = ExportOptions(calibration=list(pixels(model, num_images=4).numpy()))
    first_conv = {}
    for target in ("onnx-int8", "openvino-int8"):
        export = build_export(target, model, CLASSES, options, trained_model="-")
        parts = export.encode(export.about)
        assert export.about["float_layers"] == []
        if target == "onnx-int8":
            file = onnx.load_from_string(parts[".onnx"])
            first_conv[target] = next(weight.shape for _, weight in int8_weights(file))
        else:
            network = openvino.Core().read_model(parts[".xml"], parts[".bin"])
            conv = next(
                op for op in network.get_ordered_ops() if op.get_type_name() == "Convolution"
            )
            first_conv[target] = tuple(conv.input(1).get_shape())
    assert len(searches) == 1
    assert first_conv["onnx-int8"][1:] == (12, 3, 2)
    assert first_conv["openvino-int8"][1:] == (3, 3, 3)


def int8_weights(model: "onnx.ModelProto") -> list[tuple["onnx.NodeProto", np.ndarray]]:
    """The convolutions in int8, in the order of the graph, and their weights."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    values = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    return [
        (node, values[made_by[node.input[1]].input[0]])
        for node in convs
        if node.input[1] in made_by
    ]


def weights_of(model: "onnx.ModelProto", node_name: str) -> np.ndarray | None:
    """A float convolution's weights; None of one in int8, of which the first has another name."""
    taken = {name for node in model.graph.node if node.name == node_name for name in node.input[1:]}
    found = [item for item in model.graph.initializer if item.name in taken]
    return onnx.numpy_helper.to_array(found[0]) if found else None


def test_the_step_that_loses_most_is_named():
    steps = [{"step": "a", "AP": 0.44}, {"step": "b", "AP": 0.40}, {"step": "c", "AP": 0.41}]
    rows = [
        {"target": "pytorch", "AP": 0.5, "AP_at_threshold": 0.45},
        {"target": "jetson", "steps": steps},
        {"target": "onnx", "steps": [{"step": "d", "AP": 0.48}]},
    ]
    assert drops(rows, 0.05) == []
    assert drops(rows, 0.03) == [
        "jetson: AP 0.4100 where PyTorch has 0.4500: a loss of more than 0.03, "
        "and 0.0400 of it by: b"
    ]
    assert len(drops(rows, 0.01)) == 2


def test_precision_and_recall_by_hand():
    """Two boxes of class 1, a crowd, and one of class 2; three detections count, two are right."""
    truth = GroundTruth(
        num_images=2,
        num_classes=2,
        image_index=np.array([0, 0, 1, 1]),
        labels=np.array([1, 1, 2, 1]),
        boxes_xywh=np.array([[0, 0, 10, 10], [50, 50, 10, 10], [0, 0, 10, 10], [40, 40, 9, 9.0]]),
        areas=np.array([100, 100, 100, 81.0]),
        iscrowd=np.array([False, False, False, True]),
    )
    detections = Detections(
        image_index=np.array([0, 0, 1, 1, 1]),
        labels=np.array([1, 1, 2, 1, 2]),
        boxes_xywh=np.array(
            [[0, 0, 10, 8], [1, 0, 10, 8], [0, 0, 10, 10], [40, 40, 9, 9], [0, 0, 10, 10.0]]
        ),
        scores=np.array([0.9, 0.8, 0.7, 0.9, 0.4]),
    )
    at = {
        x: tuple(thresholded(truth, detections, score_threshold=x).values())[:2]
        for x in (0.5, 0.3, 0.95)
    }
    assert at[0.5] == (2 / 3, 2 / 3)  # the second is a duplicate, the fourth is the crowd's
    assert at[0.3] == (2 / 4, 2 / 3)
    assert at[0.95] == (None, 0)


def test_golden_network_on_the_jetson(shared, tmp_path):
    """On 20 images: without suppression in the graph detectNet shows many more wrong boxes."""
    numbers = {}
    for name, argv in {"plain": ["--plain"], "suppressed": []}.items():
        done = call(
            "export_ssd", "--trained-model", shared / "golden/upstream_mb2_ssd_lite.pth",
            "--net", "mb2-ssd-lite", "--target", "jetson", "--output-dir", tmp_path / name, *argv,
        )  # fmt: skip
        assert done.code == 0, done.err
        detector = DetectNet(FileDetector(tmp_path / name / "mb2-ssd-lite-jetson.onnx"))
        source = open_split(shared / "data/finetune_dataset", "val")
        images = [source.index.file_name(i) for i in range(20)]
        numbers[name] = sum(
            len(detector.predict(cv2.imread(str(source.image_folder / image))[:, :, ::-1]))
            for image in images
        )
    assert numbers["suppressed"] < 0.8 * numbers["plain"]
