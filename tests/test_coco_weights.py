"""torchvision's COCO weights: as a start of training, and measured as they are."""

import json
import os
from pathlib import Path

import pytest
import torch
from script_runs import FAST, call
from torch import Tensor
from torchvision.models import get_weight

from vision.datasets.sample import write_sample_dataset
from vision.nn.cpu.optimize import optimize_for_inference
from vision.runs.load_model import load_for_inference
from vision.runs.weights import load_pretrained_ssd, score_tensors
from vision.ssd.models import MODELS, build_model
from vision.ssd.ssd import SSD

LITE = "ssdlite320-mb3-large"


@pytest.fixture(scope="module")
def coco_names() -> list[str]:
    """The 91 names of torchvision's labels, the background and ten N/A among them."""
    return get_weight(MODELS[LITE].coco_weights).meta["categories"]


@pytest.fixture(scope="module")
def coco_weights() -> dict[str, Tensor]:
    """Stand for what torchvision would download."""
    torch.manual_seed(3)
    return build_model(LITE, num_classes=91).state_dict()


@pytest.fixture
def downloaded(tmp_path, monkeypatch, coco_weights):
    """The weights lie where torchvision keeps its downloads, and looks first."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache/hub/checkpoints"
    folder.mkdir(parents=True)
    torch.save(coco_weights, folder / Path(get_weight(MODELS[LITE].coco_weights).url).name)


@pytest.fixture
def no_network(tmp_path, monkeypatch) -> Path:
    """A proxy that nobody listens at, and an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    for name in [name for name in os.environ if name.lower() == "no_proxy"]:
        monkeypatch.delenv(name)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    return tmp_path / "empty"


@pytest.fixture(scope="module")
def coco80(tmp_path_factory, coco_names) -> Path:
    """Drawn images whose annotation files list COCO's eighty categories."""
    root = tmp_path_factory.mktemp("coco80")
    write_sample_dataset(root, num_train=4, num_val=4, image_size=(120, 160))
    categories = [
        {"id": i, "name": name} for i, name in enumerate(coco_names) if i and name != "N/A"
    ]
    assert len(categories) == 80
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"categories": categories}))
    return root


def test_rows_of_named_classes_are_kept(downloaded, coco_weights, coco_names):
    model = build_model(LITE, num_classes=4)
    initial = {name: x.clone() for name, x in model.state_dict().items()}
    report = load_pretrained_ssd(model, "torchvision", class_names=["dog", "N/A", "person"])
    scores = score_tensors(model)
    assert sorted(report.adapted) == sorted(scores) and report.initialised == []
    new = model.state_dict()
    for name in scores:
        old = coco_weights[name].unflatten(0, (6, 91))
        kept = torch.stack([old[:, 0], old[:, 18], old[:, 1]], dim=1)  # background, dog, person
        rows = new[name].unflatten(0, (6, 4))
        assert torch.equal(rows[:, [0, 1, 3]], kept), name
        assert torch.equal(rows[:, 2], initial[name].unflatten(0, (6, 4))[:, 2]), name
    for name in new.keys() - set(scores):
        assert torch.equal(new[name], coco_weights[name]), name
    assert coco_names[18] == "dog" and coco_names[1] == "person"


def test_scores_for_inference_are_those_of_all_labels(downloaded, coco_weights, coco_names):
    model, classes, _ = load_for_inference("torchvision", net=LITE)
    whole = build_model(LITE, num_classes=91).eval()
    whole.load_state_dict(coco_weights)
    images = torch.randn(1, 3, 320, 320)
    with torch.inference_mode():
        logits, offsets = model(images)
        expected, expected_offsets = whole(images)
    scores = expected.softmax(dim=-1)
    named = [i for i, name in enumerate(coco_names) if i and name != "N/A"]
    assert [item["name"] for item in classes] == [coco_names[i] for i in named]
    assert logits.shape[-1] == model.num_classes == 81
    ours = logits.softmax(dim=-1)
    torch.testing.assert_close(ours[..., 1:], scores[..., named], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.sum(dim=-1), torch.ones(ours.shape[:2]))
    assert torch.equal(offsets, expected_offsets)
    with torch.inference_mode():
        fast, _ = optimize_for_inference(model)(images)
    torch.testing.assert_close(fast.softmax(dim=-1), ours, atol=1e-5, rtol=1e-3)


def test_eval_ssd_measures_them(downloaded, coco80):
    result = call(
        "eval_ssd", "--trained-model=torchvision", f"--net={LITE}", "--dataset", coco80,
        "--device=cpu", "--workers=0", "--json", "--image-size=96",
    )  # fmt: skip
    assert (result.code, result.errors) == (0, []), result.err
    per_class = json.loads(result.out)["per_class"]
    assert len(per_class) == 80 and "N/A" not in per_class
    assert sum(row["num_gt"] for row in per_class.values()) > 0


def test_run_ssd_example_draws_with_them(downloaded, coco80, tmp_path):
    result = call(
        "run_ssd_example", "--trained-model=torchvision", f"--net={LITE}", "--device=cpu",
        "--output-dir", tmp_path / "out", "--limit=1", coco80 / "val2017",
    )  # fmt: skip
    assert (result.code, result.errors) == (0, []), result.err
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("script", ["eval_ssd", "train_ssd"])
def test_without_a_network_one_line_names_the_way_out(script, no_network, coco80, tmp_path):
    flags = {
        "eval_ssd": ["--trained-model=torchvision", "--dataset", coco80],
        "train_ssd": [
            "--pretrained-ssd=torchvision", "--datasets", coco80, "--workers=0",
            "--checkpoint-folder", tmp_path / "run",
        ],
    }[script]  # fmt: skip
    result = call(script, *flags, f"--net={LITE}", "--image-size=96", "--device=cpu")
    assert result.code == 1 and len(result.errors) == 1, result.err
    url = get_weight(MODELS[LITE].coco_weights).url
    for words in (LITE, "could not be downloaded", url, str(no_network / "hub/checkpoints")):
        assert words in result.errors[0]
    assert not (tmp_path / "run").exists()


def test_other_networks_and_none_are_refused():
    model = build_model("mb2-ssd", num_classes=3, image_size=(96, 96), width_mult=0.25)
    with pytest.raises(
        ValueError, match=f"torchvision has no trained mb2-ssd, only {LITE}, ssd300-vgg16"
    ):
        load_pretrained_ssd(model, "torchvision", class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=f"say which network: --net {LITE} or ssd300-vgg16"):
        load_for_inference("torchvision")


# ---- training


def weights_of(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoint_last.pt", weights_only=True)["model"]


def test_a_run_from_them_trains_resumes_and_evaluates(downloaded, coco80, tmp_path):
    """One epoch and a resumed second give the weights of two epochs in one go."""
    recipe = [flag for flag in FAST if not flag.startswith(("--mb2", "--epochs"))]
    flags = [
        f"--net={LITE}", "--pretrained-ssd=torchvision", "--datasets", coco80, "--device=cpu",
        "--scheduler=none", "--warmup-epochs=0", "--augmentation=flip", *recipe,
    ]  # fmt: skip
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for run, epochs in ((straight, 2), (resumed, 1)):
        result = call("train_ssd", *flags, f"--epochs={epochs}", "--checkpoint-folder", run)
        assert (result.code, result.errors) == (0, []), result.err
    result = call("train_ssd", "--resume", resumed, "--epochs=2")
    assert result.code == 0, result.err
    expected, found = weights_of(straight), weights_of(resumed)
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    state = torch.load(straight / "checkpoint_last.pt", weights_only=True)
    assert state["normalization"] == {"mean": [127.5] * 3, "std": [127.5] * 3}
    model, classes, _ = load_for_inference(straight)
    assert isinstance(model, SSD) and len(classes) == 80 and model.num_classes == 81
    result = call(
        "eval_ssd", "--trained-model", straight, "--dataset", coco80, "--workers=0",
        "--device=cpu", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert json.loads(result.out)["AP"] == pytest.approx(max(row["AP"] for row in rows), abs=1e-6)
