"""Fitted priors: worked out on drawn boxes, chosen by --priors, kept by runs, resumes and files."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from script_runs import FAST, call

from vision.datasets.annotation_index import Category, build_index
from vision.datasets.layouts.layout import Source
from vision.ops.priors import build_priors
from vision.priors.boxes import augmented_boxes, class_weights, join, own_boxes
from vision.priors.coverage import best_prior_iou
from vision.priors.fit import fit_priors
from vision.runs.load_model import load_for_inference
from vision.ssd.models import MODELS, build_model
from vision.training.data import DataSplit
from vision.training.priors import choose_priors
from vision.transforms.presets import build_train_transform

SIZE = (300, 300)


def index_of(sides, labels, *, image=600, seed=0):
    """One box of (width, height) [N, 2] in the middle half of each image of image x image px."""
    sides, labels = np.asarray(sides, float), np.asarray(labels)
    count = len(sides)
    center = np.random.default_rng(seed).uniform(0.25, 0.75, (count, 2)) * image
    corner = np.clip(center - sides / 2, 0, image - sides)
    return build_index(
        "drawn", [Category(k, k, k, f"c{k}") for k in range(1, labels.max() + 1)],
        image_ids=np.arange(count), file_names=[f"{n}.jpg" for n in range(count)],
        sizes=np.full((count, 2), image, np.int32), rows=np.arange(count), labels=labels,
        boxes_xywh=np.concatenate([corner, sides], axis=1), areas=sides.prod(axis=1),
        iscrowd=np.zeros(count, bool),
    )  # fmt: skip


def fit(name, index, seed=0):
    """The network's own priors and the fitted ones, each as maps and as the share covered."""
    model = build_model(name, num_classes=3, image_size=SIZE)
    own, sizes = model.network.priors, model.feature_map_sizes()
    boxes = own_boxes([index])
    transform = build_train_transform("ssd", image_size=SIZE, mean=127)
    sample = join(boxes, augmented_boxes([index], transform, seed=seed))
    fitted = fit_priors(own, sizes, SIZE, sample, seed=seed)
    covered = [
        best_prior_iou(boxes.boxes, build_priors(sizes, SIZE, maps).numpy()) >= 0.5
        for maps in (own, fitted)
    ]
    return own, fitted, covered, boxes


@pytest.fixture(scope="module")
def mixed():
    """Many boxes of 180 px and a few of 44, of images of 600: 90 and 22 px at the input."""
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.normal(180, 20, (900, 2)), rng.normal(50, 5, (60, 2))])
    return index_of(sides, [1] * 900 + [2] * 60)


@pytest.mark.parametrize("name", ["mb2-ssd-lite", "mb2-ssd-lite-fpn", "vgg16-ssd"])
def test_a_rare_class_of_small_objects_is_covered(mixed, name):
    own, fitted, (before, after), boxes = fit(name, mixed)
    for label in (1, 2):
        of_class = boxes.labels == label
        assert after[of_class].mean() >= before[of_class].mean() - 0.02
    assert after @ boxes.weights >= max(0.75, before @ boxes.weights)
    if name == "mb2-ssd-lite":  # its smallest prior has 60 px
        assert before[boxes.labels == 2].mean() == 0 and after[boxes.labels == 2].mean() > 0.5
    assert [len(m.shapes) for m in fitted] == [len(m.shapes) for m in own]
    assert [m.stride for m in fitted] == [m.stride for m in own]


def test_large_objects_are_covered_as_before_and_no_size_is_given_up():
    rng = np.random.default_rng(1)
    index = index_of(rng.uniform(250, 560, (300, 2)), [1] * 300)
    own, fitted, (before, after), _ = fit("mb2-ssd-lite", index)
    assert after.mean() >= before.mean() - 0.01
    areas = [[w * h for w, h in m.shapes] for m in fitted]
    # No map was moved to objects of the next one; each still has priors of its own sizes.
    for own_map, moved, following in zip(own, areas, areas[1:], strict=False):
        assert max(moved) < 1.6 * max(w * h for w, h in own_map.shapes)
        assert min(moved) < min(following)


def test_nothing_to_fit_and_the_same_seed_twice(mixed):
    first, again = fit("mb2-ssd-lite", mixed, seed=3)[1], fit("mb2-ssd-lite", mixed, seed=3)[1]
    assert first == again
    network = MODELS["mb2-ssd-lite"]
    empty = own_boxes([mixed])
    empty = type(empty)(empty.boxes[:0], empty.labels[:0], empty.weights[:0])
    sizes = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    fitted = fit_priors(network.priors, sizes, SIZE, empty)
    for own_map, fitted_map in zip(network.priors, fitted, strict=True):
        np.testing.assert_allclose(sorted(fitted_map.shapes), sorted(own_map.shapes), atol=1e-4)


def test_classes_are_weighed_alike_and_tiny_ones_less():
    weights = class_weights(np.array([1] * 1000 + [2] * 100 + [3] * 5))
    sums = [weights[:1000].sum(), weights[1000:1100].sum(), weights[1100:].sum()]
    assert sums == pytest.approx([4 / 9, 4 / 9, 1 / 9])


def test_augmented_boxes_are_those_of_the_transform():
    index = index_of([[100, 200]] * 50, [1] * 50)
    plain = augmented_boxes([index], build_train_transform("none", image_size=SIZE, mean=127))
    sides = plain.boxes[:, 2:] - plain.boxes[:, :2]
    np.testing.assert_allclose(sides, [[1 / 6, 1 / 3]] * len(sides), atol=1e-5)
    zoomed = augmented_boxes([index], build_train_transform("ssd", image_size=SIZE, mean=127))
    widths = zoomed.boxes[:, 2] - zoomed.boxes[:, 0]
    assert widths.min() < 0.5 / 6 and widths.max() > 1.5 / 6


@pytest.mark.parametrize(
    ("side", "given", "choice"),
    [
        (270, None, "fitted"),
        (150, None, "the network's own: fitting would add 0.00, less than 0.05"),
        (270, "run", "the network's own: fitting would add 0.00, less than 0.2"),
    ],
)
def test_for_large_objects_they_are_taken_where_they_cover_as_many(caplog, side, given, choice):
    """270 px of 600 are more than a third of the side, 150 less; given: a trained detector."""
    shapes = side * np.random.default_rng(0).uniform([0.9, 0.9], [1.4, 1.1], (200, 2))
    split = DataSplit("train", [Source(index_of(shapes, [1] * 200), Path("."))])
    model = build_model("mb2-ssd-lite-fpn", num_classes=2, image_size=SIZE)
    args = SimpleNamespace(
        priors="auto", prior_sizes=None, pretrained_ssd=given, seed=0, tiles=1, augmentation="light"
    )
    with caplog.at_level("INFO"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("vision.training.priors.saved_priors", lambda *_: None)
        choose_priors(args, split, model)
    own = MODELS["mb2-ssd-lite-fpn"].priors
    assert caplog.messages[-1] == f"priors: {choice}"
    assert (model.network.priors != own) == (choice == "fitted")


@pytest.fixture(scope="module")
def small_boxes(tmp_path_factory):
    """A data set whose objects are smaller than every prior."""
    from vision.datasets.sample import write_sample_dataset

    root = tmp_path_factory.mktemp("small")
    write_sample_dataset(root, num_train=8, num_val=2)
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}2017.json"
        content = json.loads(path.read_text())
        for item in content["annotations"]:
            x, y, _, _ = item["bbox"]
            item["bbox"], item["area"] = [x, y, 70, 60], 4200
        path.write_text(json.dumps(content))
    return root


def shapes_of(config: dict) -> list:
    return [prior_map["shapes"] for prior_map in config["priors"]]


def train(data, run, *flags):
    """Train a new run; return what it said, and its config.json."""
    flags = [*FAST, "--priors=auto", *flags]
    done = call("train_ssd", "--datasets", data, "--checkpoint-folder", run, *flags)
    assert (done.code, done.errors) == (0, []), done.err
    return done.err, json.loads((run / "config.json").read_text())


def test_a_run_fits_says_so_keeps_and_resumes(small_boxes, tmp_path):
    said, config = train(small_boxes, tmp_path / "run")
    assert "own priors -> fitted: mean of the classes 0.00" in said and "priors: fitted" in said
    own = [[list(s) for s in m.shapes] for m in MODELS["mb2-ssd-lite"].priors]
    assert shapes_of(config) != own
    model, _, _ = load_for_inference(tmp_path / "run")
    assert model.network.as_numbers()["priors"] == config["priors"]
    again = call("train_ssd", "--resume", tmp_path / "run", "--epochs=2")
    assert again.code == 0 and "own priors" not in again.err
    assert json.loads((tmp_path / "run/config.json").read_text())["priors"] == config["priors"]
    # Other runs take them from this one, go on from its weights and keep their priors, or do not.
    weights = tmp_path / "run/checkpoint_best.pt"
    for name, flag, value, wanted in (
        ("same", "--priors", tmp_path / "run", shapes_of(config)),
        ("tuned", "--pretrained-ssd", weights, shapes_of(config)),
        ("own", "--priors", "default", own),
    ):
        assert shapes_of(train(small_boxes, tmp_path / name, flag, value)[1]) == wanted, name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "not JSON"),
        ("[]", "it has no 'priors'"),
        ('{"priors": [{"shapes": [[1, -1]], "stride": 8, "clamp_centers": true}]}', "are not what"),
        ('{"priors": []}', "priors for 0 feature maps"),
        (None, "No such file"),
    ],
)
def test_a_file_without_priors_is_named(small_boxes, tmp_path, content, words):
    file = tmp_path / "priors.json"
    if content is not None:
        file.write_text(content)
    done = call(
        "train_ssd", "--datasets", small_boxes, "--checkpoint-folder", tmp_path / "run", *FAST,
        "--priors", file,
    )  # fmt: skip
    assert done.code == 1 and len(done.errors) == 1
    assert "priors.json" in done.errors[0] and words in done.errors[0]
    assert not (tmp_path / "run").exists()
