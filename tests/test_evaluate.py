"""Evaluation end to end: the loop on images, eval_ssd.py as a user runs it, the files it writes."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

import eval_ssd
import run_ssd_example
from vision.datasets.coco import CocoDetection
from vision.datasets.coco_index import load_coco_index
from vision.datasets.layouts.choose import open_split
from vision.datasets.loader import DetectionLoader
from vision.evaluation.coco_boxes import Detections, DetectionsBuffer, ground_truth_from_index
from vision.evaluation.coco_results import explain_nothing_found
from vision.evaluation.evaluate import evaluate
from vision.evaluation.inference import Inference, merge_inference
from vision.nn.cpu.optimize import optimize_for_inference
from vision.ops.box_coder import encode_boxes
from vision.ssd.loss import MultiBoxLoss
from vision.ssd.models import MODELS, build_model
from vision.transforms.presets import build_eval_transform

pytest_plugins = ["resume_fixtures"]
SIZE = (96, 96)
CPU = torch.device("cpu")
CATEGORIES = {90: "owl", 3: "cat", 17: "dog"}  # in the file's order; the labels are cat, dog, owl
# Image ids that are neither sorted nor dense; the third image has no objects.
SIZES = {700: (80, 100), 0: (60, 60), 31: (50, 120), 2**40: (120, 90)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set folder of four images and eight objects, one of them a crowd."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    (root / "val").mkdir()
    rng = np.random.default_rng(0)
    images = []
    for image_id, (height, width) in SIZES.items():
        name = f"{image_id}.png"
        pixels = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (9, 9), 3)
        cv2.imwrite(str(root / "val" / name), pixels)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    boxes = [
        (700, 3, [10, 5, 80, 70], 0),
        (700, 17, [0, 0, 40, 40], 0),
        (700, 17, [50, 30, 45, 45], 0),
        (0, 90, [5, 5, 50, 50], 0),
        (0, 3, [0, 0, 60, 60], 1),
        (0, 17, [0, 0, 60, 58], 0),
        (2**40, 90, [20, 20, 60, 90], 0),
        (2**40, 3, [0, 10, 30, 100], 0),
    ]
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd,
         "area": box[2] * box[3]}
        for i, (image, category, box, crowd) in enumerate(boxes)
    ]  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return root


def annotation_file(root: Path) -> Path:
    return root / "annotations/instances_val.json"


def build_loader(root: Path, *, workers: int = 0) -> DetectionLoader:
    index = load_coco_index(annotation_file(root))
    dataset = CocoDetection([(index, root / "val")], transform=build_eval_transform(SIZE))
    return DetectionLoader(dataset, batch_size=3, num_workers=workers, shuffle=False)


def build_random_model(num_classes: int = 4) -> nn.Module:
    """A network with BatchNorm statistics that give it opinions."""
    torch.manual_seed(1)
    model = build_model("mb2-ssd-lite", num_classes=num_classes, image_size=SIZE, width_mult=0.25)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.1, 0.5)
    return model


class Oracle(nn.Module):
    """Predicts every box of the data set on a prior of its own, in the order of the loader."""

    def __init__(self, loader: DetectionLoader, *, num_classes: int = 4):
        super().__init__()
        self.network = MODELS["mb2-ssd-lite"]
        self.num_classes = num_classes
        self.targets = [loader.dataset[i][1] for i in range(len(loader.dataset))]
        self.priors_cxcywh = torch.full((8, 4), 0.5)
        self.seen = 0

    def forward(self, images):
        cls_logits = torch.zeros(len(images), 8, self.num_classes)
        cls_logits[..., 0] = 20.0
        bbox_regression = torch.zeros(len(images), 8, 4)
        for row in range(len(images)):
            target = self.targets[self.seen]
            self.seen += 1
            count = len(target["labels"])
            boxes = torch.from_numpy(target["boxes"]) / SIZE[0]
            bbox_regression[row, :count] = encode_boxes(boxes, self.priors_cxcywh[:count])
            cls_logits[row, torch.arange(count), torch.from_numpy(target["labels"])] = 30.0
        return cls_logits, bbox_regression


def run_evaluate(model, loader, **options):
    index = loader.dataset.sources[0][0]
    names = [category.name for category in index.categories]
    truth = ground_truth_from_index(index)
    return evaluate(model, loader, ground_truth=truth, class_names=names, device=CPU, **options)


@pytest.mark.parametrize("evaluator", ["fast", "pycocotools"])
def test_perfect_predictions_score_one(root, evaluator):
    loader = build_loader(root)
    result = run_evaluate(Oracle(loader), loader, evaluator=evaluator)
    assert result.metrics["AP"] == pytest.approx(1)
    assert result.metrics["per_class"]["cat"]["num_gt"] == 2  # the crowd is none
    assert len(result.detections) == 8
    assert result.top_scores == pytest.approx({"cat": 1, "dog": 1, "owl": 1}, abs=1e-3)
    assert set(result.seconds) == {"data", "inference", "loss", "postprocess", "coco"}
    record = result.as_record()
    assert record["AP"] == result.metrics["AP"]
    assert "per_class" not in record and "val_loss" not in record
    json.dumps(record)


def test_loss_is_the_mean_over_images(root):
    loader = build_loader(root)
    model = build_random_model().eval()
    loss_fn = MultiBoxLoss(model.priors_cxcywh, image_size=SIZE)
    result = run_evaluate(model, loader, loss_fn=loss_fn)
    expected = 0.0
    with torch.no_grad():
        for images, targets in loader:
            inputs = (images.float() - 127) / 128
            expected += loss_fn(*model(inputs), targets)["loss"].item() * len(targets) / 4
    assert result.as_record()["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert set(result.losses) == {"loss", "loss_classification", "loss_regression"}


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_computes_in_the_chosen_format(root, name, dtype):
    model, outputs = build_random_model(), []
    model.register_forward_hook(lambda module, inputs, output: outputs.extend(output))
    run_evaluate(model, build_loader(root), precision=name)
    assert {output.dtype for output in outputs} == {dtype}


def test_batch_norm_statistics_stay(root):
    model = build_random_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run_evaluate(model, build_loader(root))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_loader_of_other_images_is_refused(root):
    loader = build_loader(root)
    truth = ground_truth_from_index(loader.dataset.sources[0][0], np.array([0, 1]))
    names = ["cat", "dog", "owl"]
    with pytest.raises(ValueError, match="4 images of 2"):
        evaluate(Oracle(loader), loader, ground_truth=truth, class_names=names, device=CPU)


def part(images: list[int], *rows, loss: float) -> Inference:
    """The share of a process: the images it saw, and rows (image, score) it found there."""
    table = np.array(rows, float).reshape(-1, 2)
    return Inference(
        detections=Detections(
            image_index=table[:, 0].astype(int),
            labels=np.ones(len(table), int),
            boxes_xywh=np.zeros((len(table), 4)),
            scores=table[:, 1],
        ),
        image_index=np.array(images),
        top_scores=np.array([table[:, 1].max(initial=0)]),
        batch_losses=[(images[0], {"loss": loss})],
        seconds={"inference": float(len(images))},
    )


def test_shares_are_joined_in_the_order_of_the_images():
    merged = merge_inference(
        [
            part([1, 3], (1, 0.9), (3, 0.5), (1, 0.3), loss=1.0),
            part([0, 2], (0, 0.7), (2, 0.5), loss=2.0),
        ]
    )
    assert merged.image_index.tolist() == [0, 1, 2, 3]
    assert merged.detections.image_index.tolist() == [0, 1, 1, 2, 3]
    assert merged.detections.scores.tolist() == [0.7, 0.9, 0.3, 0.5, 0.5]
    assert merged.top_scores.tolist() == [0.9]
    assert merged.batch_losses == [(0, {"loss": 2.0}), (1, {"loss": 1.0})]
    assert merged.seconds == {"inference": 2.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A bare state dict and its labels, the classes in another order than the file's."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(build_random_model().state_dict(), folder / "model.pth")
    (folder / "labels.txt").write_text("BACKGROUND\ndog\nowl\ncat\n")
    return folder / "model.pth"


@pytest.fixture
def run_eval(root, weights, capsys):
    """Run eval_ssd.py in this process; returns its exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        try:
            code = eval_ssd.main(list(map(str, [*eval_arguments(weights, root), *arguments])))
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


def eval_arguments(weights: Path, root: Path) -> list:
    return [
        "--trained-model", weights, "--net", "mb2-ssd-lite", "--dataset", root,
        "--image-size", SIZE[0], "--workers", 0, "--precision", "fp32",
    ]  # fmt: skip


def test_files_hold_what_pycocotools_measures(root, weights, trainer, tmp_path):
    """An independent reading of detections.json in the ids of the annotation file."""
    argv = [*eval_arguments(weights, root), "--output-dir", tmp_path / "out"]
    done = trainer.run(*argv, script="eval_ssd")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    assert {row["image_id"] for row in rows} == set(SIZES)
    assert {row["category_id"] for row in rows} <= set(CATEGORIES)
    content = json.loads(annotation_file(root).read_text())
    for annotation in content["annotations"]:
        annotation["id"] += 1  # pycocotools takes id 0 for "not matched"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        coco_eval = COCOeval(coco, coco.loadRes(rows), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    names += ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert metrics["AP"] > 0 and metrics["AR100"] > 0  # there is something to compare
    for name, value in zip(names, coco_eval.stats, strict=True):
        expected = None if value == -1 else pytest.approx(value, abs=1e-4)
        assert metrics[name] == expected, name
    assert sorted(metrics["per_class"]) == ["cat", "dog", "owl"]
    assert "AP50" in done.stdout and "dog" in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"metrics.json", "detections.json", "report.html"}
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.stdout
    assert f"AP {metrics['AP']:.3f} (95 %: " in done.stdout


def test_json_is_all_of_stdout_and_evaluators_agree(run_eval):
    fast, oracle = (
        json.loads(run_eval("--json", "--evaluator", evaluator)[1])
        for evaluator in ("fast", "pycocotools")
    )
    assert fast == oracle and fast["AP"] > 0


def test_only_the_pycocotools_evaluator_needs_pycocotools(run_eval, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pycocotools"]:
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    code, output, _ = run_eval("--json")
    assert code == 0 and json.loads(output)["AP"] > 0
    code, output, errors = run_eval("--json", "--evaluator", "pycocotools")
    assert (code, output) == (1, "")
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "pip install pycocotools" in line


def test_nothing_detected_is_explained(run_eval):
    code, output, _ = run_eval("--score_threshold", 1)
    assert code == 0
    assert "AP      0.000" in output
    assert "nothing scored above 1" in output
    assert "likely reasons" in output


def test_scores_that_are_not_numbers_are_named():
    lines = explain_nothing_found({"cat": float("nan")}, 0.01)
    assert "diverged" in lines[-1]


def test_the_common_classes_are_evaluated_and_the_others_named(run_eval, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("BACKGROUND\ndog\nhorse\ncat\n")  # the weights' own: dog, owl, cat
    code, output, errors = run_eval("--label-file", labels, "--json")
    assert code == 0
    assert "horse not annotated there, and not counted in its images" in errors
    assert re.search(r"owl \(\d+ boxes\) left out", errors)
    per_class = json.loads(output)["per_class"]
    assert list(per_class) == ["dog", "horse", "cat"] and per_class["horse"]["AP"] is None
    everything = json.loads(run_eval("--json")[1])["per_class"]
    assert [per_class[name] for name in ("cat", "dog")] == [everything[n] for n in ("cat", "dog")]


def test_other_classes_are_refused_in_one_line(run_eval, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("BACKGROUND\nfox\nhen\nhorse\n")
    code, _, errors = run_eval("--label-file", labels)
    assert code == 1
    said, *_, line = errors.strip().splitlines()
    assert "COCO layout" in said
    assert line.startswith("error: ") and "cat, dog, owl" in line and "fox, hen, horse" in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--iou-threshold", "1.5"], 2, "--iou-threshold"),
        (["--evaluator", "voc"], 2, "--evaluator"),
        (["--split", "nothere"], 1, "nothere"),
        (["--trained-model", "/no/such/run"], 1, "/no/such/run"),
    ],
)
def test_bad_input_is_one_line(run_eval, arguments, code, message):
    result, output, errors = run_eval(*arguments)
    assert (result, output) == (code, "")
    *said, line = errors.strip().splitlines()
    assert message in line and all("COCO layout" in text for text in said)


def test_example_draws_pictures(root, weights, trainer, tmp_path, capsys):
    arguments = ["--trained-model", weights, "--net", "mb2-ssd-lite", "--output-dir", tmp_path]
    flags = ["--score-threshold", 0.1, "--limit", 3]
    done = trainer.run(*arguments, *flags, root / "val", script="run_ssd_example")
    assert done.returncode == 0, done.stderr
    pictures = sorted(path.name for path in tmp_path.iterdir())
    assert len(pictures) == len(done.stdout.splitlines()) == 3
    for line, name in zip(done.stdout.splitlines(), pictures, strict=True):
        image = cv2.imread(str(root / "val" / name.replace("_detections.jpg", ".png")))
        picture = cv2.imread(str(tmp_path / name))
        assert picture.shape == image.shape and " owl" in line
        # The images are gray noise, which JPEG changes little; boxes and names are in colour.
        assert (cv2.absdiff(picture, image).max(axis=2) > 60).mean() > 0.2
    absent = tmp_path / "absent.jpg"
    assert run_ssd_example.main(list(map(str, [*arguments, absent]))) == 1
    assert capsys.readouterr().err == f"error: {absent}: no such image, folder, video or camera\n"


def test_golden_weights_reach_the_golden_precision(shared, tmp_path):
    """The whole path on the original's weights: decode, resize, normalise, network, NMS, COCO."""
    golden = json.loads((shared / "golden/val_detections.json").read_text())["metrics"]
    source = open_split(shared / "data/finetune_dataset", "val")
    dataset = CocoDetection([source], transform=build_eval_transform((300, 300)))
    model = build_model("mb2-ssd-lite", num_classes=4)
    weights = torch.load(shared / "golden/upstream_mb2_ssd_lite.pth", weights_only=True)
    model.load_state_dict(weights)
    loader = DetectionLoader(dataset, batch_size=16, num_workers=0, shuffle=False)
    metrics = run_evaluate(optimize_for_inference(model), loader).metrics
    assert list(metrics["per_class"]) == ["WBC", "RBC", "Platelets"]
    # The original does not clip boxes to the image, which is worth 0.003 to ours.
    assert metrics["AP"] == pytest.approx(golden["AP"], abs=0.005)
    assert metrics["AP50"] == pytest.approx(golden["AP50"], abs=0.005)


def test_detections_buffer_keeps_what_was_added_past_its_capacity():
    rng = np.random.default_rng(0)
    parts = []
    buffer = DetectionsBuffer(capacity=4)
    for count in (3, 0, 2, 20):
        part = Detections(
            image_index=rng.integers(9, size=count),
            labels=rng.integers(1, 5, size=count),
            boxes_xywh=rng.random((count, 4)),
            scores=rng.random(count),
        )
        parts.append(part)
        buffer.add(part)
    for name, expected in vars(Detections.concatenate(parts)).items():
        np.testing.assert_array_equal(getattr(buffer.gathered(), name), expected)
    assert len(DetectionsBuffer().gathered()) == 0
