"""Photos in tiles: where they lie, what is learned in them, what is found and joined again."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from export_models import CLASSES, opinionated
from report_factory import network
from script_runs import FAST, call

from vision.datasets.annotation_index import Category, build_index
from vision.datasets.choose_views import choose_views
from vision.datasets.coco import CocoDetection, TiledImages
from vision.datasets.coco_index import load_coco_index
from vision.datasets.image_cache import build_image_cache
from vision.datasets.image_files import read_image
from vision.datasets.loader import DetectionLoader
from vision.datasets.sample import write_sample_dataset
from vision.deploy import detect
from vision.deploy.detector import Detector
from vision.deploy.load_predictor import load_predictor
from vision.evaluation.inference import merge_inference, run_inference
from vision.ops.matcher import IGNORED, match_priors
from vision.ops.tiles import EDGE, MAX_TILES, join_views, num_views, tile_rectangles, whole_size
from vision.priors.boxes import own_boxes
from vision.runs.checkpoint import read_checkpoint
from vision.ssd.models import MODELS
from vision.transforms.geometry import View, place_boxes, place_view
from vision.transforms.presets import build_eval_transform, build_train_transform

PHOTO = (90, 180)  # its tiles 2 x 2 are of 100 x 50 px, and share 20 x 10
TILE = (0, 0, 100, 50)  # the upper left one


# ---- where they lie


def test_two_tiles_a_side_share_a_fifth():
    expected = [[0, 0, 180, 90], [0, 0, 100, 50], [80, 0, 180, 50], [0, 40, 100, 90],
                [80, 40, 180, 90]]  # fmt: skip
    assert tile_rectangles([PHOTO], 2).tolist() == [expected]
    assert tile_rectangles([PHOTO], 1).tolist() == [expected[:1]]
    assert whole_size((50, 100), 2) == PHOTO and whole_size((300, 200), 1) == (300, 200)


def test_three_tiles_of_a_side_of_13_pixels():
    rectangles = tile_rectangles([(13, 13)], 3)[0].tolist()
    assert [r[0::2] for r in rectangles[1:4]] == [[0, 5], [4, 9], [8, 13]]
    assert [r[1::2] for r in rectangles[1::3]] == [[0, 5], [4, 9], [8, 13]]


@pytest.mark.parametrize("tiles", [2, 3, 5, 16])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (480, 640), (3001, 4000)])
def test_tiles_cover_the_photo_and_the_file_for_devices_has_the_same(tiles, size):
    rectangles = tile_rectangles([size], tiles)[0].tolist()
    assert len(rectangles) == num_views(tiles) == tiles**2 + 1
    assert (detect.MAX_TILES, detect.TILE_EDGE) == (MAX_TILES, EDGE)
    assert detect.tile_rectangles(size, tiles) == list(map(tuple, rectangles))
    columns = [r[0::2] for r in rectangles[1 : tiles + 1]]
    assert columns[0][0] == 0 and columns[-1][1] == size[1]
    for (first, end), (following, _) in pairwise(columns):
        assert end - following >= 0.2 * (end - first) - 1


# ---- what is learned


def target(*boxes, crowds=(), view=TILE):
    count = len(boxes) + len(crowds)
    return {
        "boxes": np.array([*boxes, *crowds], np.float32).reshape(-1, 4),
        "labels": np.arange(1, count + 1),
        "iscrowd": np.arange(count) >= len(boxes),
        **({"view": view} if view else {}),
    }


def test_a_box_cut_by_a_tiles_edge_is_clipped_or_ignored():
    given = target(
        (10, 10, 30, 30),
        (90, 10, 110, 30),  # half of it is inside
        (94, 10, 110, 30),  # 6 of 16
        (120, 10, 140, 30),
        crowds=[(80, 20, 140, 40)],
    )
    placement = place_view(View(*TILE), PHOTO, (50, 100))
    placed = place_boxes(given, placement, output_width=100, flip=False)
    assert placed["labels"].tolist() == [1, 2, 3, 5]
    assert placed["iscrowd"].tolist() == [False, False, True, True]
    # What is ignored keeps all of its area, so priors that reach over the edge are ignored too.
    assert placed["boxes"].tolist() == [
        [10, 10, 30, 30], [90, 10, 100, 30], [94, 10, 110, 30], [80, 20, 100, 40]
    ]  # fmt: skip
    flipped = place_boxes(given, placement, output_width=100, flip=True)
    assert flipped["boxes"][2].tolist() == [-10, 10, 6, 30]


def test_what_is_ignored_is_not_learned_as_background():
    placement = place_view(View(*TILE), PHOTO, (50, 100))
    placed = place_boxes(target((94, 10, 110, 30)), placement, output_width=100, flip=False)
    priors = torch.tensor([[1.0, 0.4, 0.2, 0.4], [0.3, 0.5, 0.2, 0.4]])
    boxes = torch.tensor(placed["boxes"]) / torch.tensor([100.0, 50, 100, 50])
    labels, crowd = torch.tensor(placed["labels"]), torch.tensor(placed["iscrowd"])
    found, _ = match_priors(boxes[None], labels[None], crowd[None], priors, iou_threshold=0.4)
    assert found.tolist() == [[IGNORED, 0]]


@pytest.mark.parametrize("augmentation", ["ssd", "none"])
def test_a_tile_is_one_rectangle_with_the_augmentation(augmentation):
    """The tile is cut and augmented in one step; a crop stays inside of it."""
    transform = build_train_transform(augmentation, image_size=(50, 100), mean=127)
    transform = replace(transform, augmentation=replace(transform.augmentation, expand=None))
    pixels = np.arange(90 * 180 * 3, dtype=np.uint32).astype(np.uint8).reshape(90, 180, 3)
    view = (80, 40, 180, 90)
    for seed in range(20):
        plan = transform.plan(
            PHOTO, target((90, 50, 110, 70), view=view), np.random.default_rng(seed)
        )
        assert plan.view.x1 >= 80 and plan.view.y1 >= 40
        assert plan.view.x2 <= 180 and plan.view.y2 <= 90
    if augmentation == "none":
        image, placed = transform(pixels, target((90, 50, 110, 70), view=view))
        assert np.array_equal(image, pixels[40:90, 80:180])
        assert placed["boxes"].tolist() == [[10, 10, 30, 30]]


def index_of(*boxes_of_images, size=PHOTO):
    rows = np.repeat(np.arange(len(boxes_of_images)), [len(x) for x in boxes_of_images])
    corners = np.array([box for boxes in boxes_of_images for box in boxes], float).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    count = len(boxes_of_images)
    return build_index(
        "drawn", [Category(1, 1, 1, "cat")], image_ids=np.arange(count),
        file_names=[f"{i}.png" for i in range(count)], sizes=np.tile(size, (count, 1)), rows=rows,
        labels=np.ones(len(rows), int), boxes_xywh=np.concatenate([corners[:, :2], sides], axis=1),
        areas=sides.prod(axis=1), iscrowd=np.zeros(len(rows), bool),
    )  # fmt: skip


def test_all_tiles_with_boxes_are_trained_on_and_some_without(caplog):
    caplog.set_level("INFO", logger="vision")
    # The middle of the first photo is in all of its tiles; the second photo is empty.
    views = choose_views([index_of([(85, 42, 95, 48)]), index_of([])], 2, seed=0)
    assert views[views[:, 0] == 0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4]]
    of_second = views[views[:, 0] == 1, 1].tolist()
    assert of_second[0] == 0 and len(of_second) == 2  # a quarter of four
    assert "2 images whole, 4 tiles with boxes, and 1 of 4 without" in caplog.text
    assert "about 100x50 px" in caplog.text


def test_priors_are_fitted_to_boxes_as_the_views_show_them():
    index = index_of([(10, 10, 30, 30), (90, 10, 110, 30)])
    whole = own_boxes([index])
    assert len(whole.boxes) == 2
    seen = own_boxes([index], tiles=2)
    # Both whole, the first in one tile, the second cut in half by one and whole in another.
    expected = [[0.1, 0.2, 0.3, 0.6], [0.9, 0.2, 1, 0.6], [0.1, 0.2, 0.3, 0.6]]
    np.testing.assert_allclose(seen.boxes[:2], whole.boxes)
    np.testing.assert_allclose(seen.boxes[2:], expected, atol=1e-5)


# ---- what is found


def found_in(*per_view):
    """One dict for each of five views, from {view: [(box, score, label), ...]}."""
    (per_view,) = per_view
    rows = [per_view.get(view, []) for view in range(5)]
    return [
        {
            "boxes": torch.tensor([box for box, _, _ in row], dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor([score for _, score, _ in row], dtype=torch.float32),
            "labels": torch.tensor([label for _, _, label in row], dtype=torch.int64),
        }
        for row in rows
    ]


def joined(found, size=PHOTO):
    rectangles = tile_rectangles([size], 2)[0].tolist()
    result = join_views(found, rectangles, iou_threshold=0.45)
    by_file = detect.join_views(
        [tuple(x.numpy() for x in part.values()) for part in found],
        detect.tile_rectangles(size, 2), 0.45,
    )  # fmt: skip
    for one, other in zip(result.values(), by_file, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)
    return result


def test_an_object_on_a_seam_is_found_once():
    # At (70, 10) to (98, 30): the left tile sees it whole, the right one from x = 80 on.
    result = joined(found_in({
        0: [((71, 11, 98, 30), 0.5, 1)],
        1: [((70, 10, 98, 30), 0.8, 1), ((70, 10, 98, 30), 0.7, 2)],
        2: [((0, 10, 18, 30), 0.9, 1)],
    }))  # fmt: skip
    assert result["boxes"].tolist() == [[70, 10, 98, 30]] * 2
    assert result["labels"].tolist() == [1, 2]  # a class suppresses only its own
    np.testing.assert_allclose(result["scores"], [0.8, 0.7])


def test_the_edge_of_the_photo_cuts_nothing_and_boxes_are_moved_to_their_tile():
    result = joined(found_in({4: [((60, 20, 100, 50), 0.6, 1), ((20, 0, 40, 20), 0.9, 1)]}))
    assert result["boxes"].tolist() == [[140, 60, 180, 90]]  # the other ends at an inner edge


def test_random_detections_are_joined_alike_in_torch_and_numpy():
    rng = np.random.default_rng(0)
    size, found = (483, 641), []
    for x1, y1, x2, y2 in tile_rectangles([size], 2)[0].tolist():
        low = rng.uniform(0, 0.8, (60, 2))
        corners = np.concatenate([low, (low + rng.uniform(0.05, 0.4, (60, 2))).clip(0, 1)], axis=1)
        boxes = torch.tensor(corners * [x2 - x1, y2 - y1, x2 - x1, y2 - y1], dtype=torch.float32)
        scores = torch.tensor(rng.permutation(60) / 60 + 1e-3 * len(found), dtype=torch.float32)
        found.append(
            {"boxes": boxes, "scores": scores, "labels": torch.tensor(rng.integers(1, 4, 60))}
        )
    result = joined(found, size)
    assert 30 < len(result["scores"]) < 300
    assert (result["scores"].diff() <= 0).all()
    assert len(joined(found_in({}))["scores"]) == 0


# ---- the loader


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    write_sample_dataset(root, num_train=4, num_val=3, image_size=(150, 220))
    return root


def split_of(root: Path, split: str):
    index = load_coco_index(root / f"annotations/instances_{split}2017.json")
    return index, str(root / f"{split}2017")


def test_training_tiles_are_the_same_from_the_cache(sample, tmp_path):
    source = split_of(sample, "train")
    transform = build_train_transform("flip", image_size=(96, 96), mean=127)
    views = choose_views([source[0]], 2)
    plain, cached = (
        CocoDetection([source], transform=transform, tiles=2, views=views) for _ in range(2)
    )
    cached.cache = build_image_cache(
        "disk", cached.sizes, input_size=whole_size((96, 96), 2), folder=tmp_path
    )
    assert len(plain) == len(views) > 4 * 2
    items = [(3, i) for i in range(len(plain))]
    for one, other in zip(plain.__getitems__(items), cached.__getitems__(items), strict=True):
        assert np.array_equal(one[0], other[0]) and one[1]["view"] == other[1]["view"]
        np.testing.assert_array_equal(one[1]["boxes"], other[1]["boxes"])
    with pytest.raises(IndexError):
        plain[len(plain)]


def tiled_loader(source, *, batch_size, **options):
    transform = build_eval_transform((96, 96))
    dataset = TiledImages([source], transform=transform, tiles=2)
    return DetectionLoader(dataset, batch_size=batch_size, num_workers=0, shuffle=False, **options)


def test_evaluation_has_all_views_of_an_image_in_a_batch(sample):
    source = split_of(sample, "val")
    batches = list(tiled_loader(source, batch_size=2))
    assert [len(images) for images, _ in batches] == [10, 5]
    targets = [target for _, targets in batches for target in targets]
    assert [t["index"] for t in targets] == [0] * 5 + [1] * 5 + [2] * 5
    assert [list(t["view"]) for t in targets[:5]] == tile_rectangles([(150, 220)], 2)[0].tolist()
    pixels = read_image(Path(source[1]) / source[0].file_name(1))
    x1, y1, x2, y2 = targets[8]["view"]
    expected = cv2.resize(pixels[y1:y2, x1:x2], (96, 96), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(batches[0][0][8].permute(1, 2, 0).numpy(), expected)


def test_two_processes_find_what_one_finds(sample):
    model = opinionated()
    model.network = replace(model.network, tiles=2)

    def inference(**options):
        return run_inference(
            model, tiled_loader(split_of(sample, "val"), batch_size=1, **options),
            device=torch.device("cpu"), precision="fp32", loss_fn=None, score_threshold=0.1,
            iou_threshold=None,
        )  # fmt: skip

    whole = merge_inference([inference()])
    parts = merge_inference([inference(rank=rank, world_size=2) for rank in (0, 1)])
    assert whole.image_index.tolist() == parts.image_index.tolist() == [0, 1, 2]
    assert len(whole.detections) > 10
    for name, column in vars(whole.detections).items():
        np.testing.assert_array_equal(column, getattr(parts.detections, name))


# ---- runs


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiles"
    done = call(
        "train_ssd", "--datasets", sample, "--checkpoint-folder", folder, *FAST, "--epochs=2",
        "--tiles=2",
    )  # fmt: skip
    assert (done.code, done.errors) == (0, []), done.err
    assert "tiles 2x2: 4 images whole" in done.err
    return folder


def evaluated(run, sample, *flags):
    done = call("eval_ssd", "--trained-model", run, "--dataset", sample, "--workers", 0, "--json",
                *flags)  # fmt: skip
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_run_keeps_its_tiles_and_evaluation_takes_them(run, sample):
    assert json.loads((run / "config.json").read_text())["arguments"]["tiles"] == 2
    assert read_checkpoint(run / "checkpoint_last.pt")["tiles"] == 2
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    checkpoint = run / "checkpoint_last.pt"
    metrics = evaluated(checkpoint, sample)
    assert metrics["AP"] == pytest.approx(last["AP"], abs=1e-6)
    assert metrics == evaluated(checkpoint, sample, "--tiles=2")
    with pytest.raises(AssertionError, match="--tiles must be 1 to 16"):
        evaluated(checkpoint, sample, "--tiles=17")


def test_resume_goes_on_to_the_same_bits_and_refuses_other_tiles(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    refused = call("train_ssd", "--resume", copy, "--tiles=3")
    assert refused.code == 1 and "--tiles was 2 in this run and is 3 now" in refused.err
    done = call("train_ssd", "--resume", copy / "checkpoint_epoch_0001.pt")
    assert done.code == 0, done.err
    before, after = (read_checkpoint(x / "checkpoint_epoch_0002.pt") for x in (run, copy))
    assert after["step"] == before["step"]
    assert all(torch.equal(x, after["model"][name]) for name, x in before["model"].items())


def test_prediction_is_evaluation(run, sample, tmp_path, caplog):
    flags = ("--output-dir", tmp_path, "--score-threshold=0.05")
    evaluated(run, sample, *flags)
    results = json.loads((tmp_path / "detections.json").read_text())
    index, folder = split_of(sample, "val")
    predict = load_predictor(run, precision="fp32", score_threshold=0.05)
    images = [Path(folder) / index.file_name(row) for row in range(3)]
    assert len(results) > 10
    for image_id, found in zip(index.image_ids.tolist(), predict(images), strict=True):
        expected = [r for r in results if r["image_id"] == image_id]
        corners = np.array([r["bbox"] for r in expected]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(found["boxes"], corners, atol=0.02)
        np.testing.assert_allclose(found["scores"], [r["score"] for r in expected], atol=1e-4)
    whole = load_predictor(run, precision="fp32", score_threshold=0.05, tiles=1)(images[0])
    assert not caplog.messages
    load_predictor(run, tiles=3)
    assert "in 3 x 3 tiles objects are larger than in the 2 x 2 that" in caplog.messages[0]
    assert len(whole["scores"]) != len(predict(images[0])["scores"])


def test_a_report_speaks_of_tiles(run, sample, tmp_path):
    evaluated(run, sample, "--output-dir", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "whole and in 2x2 tiles" in page and "5 passes an image" in page
    facts = network()
    tiled = replace(facts, tiles=2)
    assert tiled.photo_size == (172, 172) and tiled.num_views == 5 and facts.num_views == 1
    # 5 px of a photo of 96: no prior is so small, in a tile it has 9 px.
    box = np.array([[0.1, 0.1, 0.1 + 5 / 96, 0.1 + 5 / 96]])
    assert tiled.prior_ious(box)[0] > 2 * facts.prior_ious(box)[0]


def test_small_objects_on_seams_are_learned_and_found(tmp_path):
    """Two photos of 300 px with squares of 20, one of them where four tiles meet."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    places = [[(140, 140), (20, 30), (250, 150)], [(130, 40), (200, 255), (60, 145)]]
    for i, corners in enumerate(places):
        pixels = rng.integers(0, 100, (300, 300, 3), np.uint8)
        for x, y in corners:
            pixels[y : y + 20, x : x + 20] = 250
        cv2.imwrite(str(tmp_path / f"train/{i}.png"), pixels)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 300, "width": 300} for i in (0, 1)],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": 1, "bbox": [x, y, 20, 20]}
            for i in (0, 1)
            for k, (x, y) in enumerate(places[i])
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    fast = [flag for flag in FAST if not flag.startswith(("--priors", "--batch-size"))]
    done = call(
        "train_ssd", "--datasets", tmp_path, "--overfit=2", "--tiles=2", *fast, "--batch-size=10",
        "--priors=fit", "--net=mb2-ssd-lite-fpn",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert "(perfect predictions: 1.000): passed" in done.out


# ---- files


def test_an_exported_file_looks_at_the_same_tiles(tmp_path, sample, caplog):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from vision.deploy.export import ExportOptions, build_export
    from vision.deploy.torch_detector import TorchDetector

    model = opinionated()
    model.network = replace(model.network, tiles=2)
    path = build_export("onnx", model, CLASSES, ExportOptions(), trained_model="x").write(tmp_path)
    assert json.loads(path.with_suffix(".json").read_text())["tiles"] == 2
    index, folder = split_of(sample, "val")
    image = read_image(Path(folder) / index.file_name(0))
    found = Detector.load(path, threshold=0.05).predict(image)
    expected = TorchDetector(model, CLASSES, threshold=0.05).predict(image)
    assert 20 < len(found) == len(expected)
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-3)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.5)
    assert not caplog.messages
    Detector.load(path, threshold=0.05, tiles=3)
    assert "in 3 x 3 tiles objects are larger than in the 2 x 2 that" in caplog.messages[0]
    whole = Detector.load(path, threshold=0.05, tiles=1).predict(image)
    model.network = replace(model.network, tiles=1)
    same = TorchDetector(model, CLASSES, threshold=0.05).predict(image)
    np.testing.assert_allclose(whole.confidence, same.confidence, atol=1e-3)


@pytest.mark.parametrize("tiles", [0, -1, 17, 2.5, "2", None])
def test_tiles_of_a_checkpoint_that_was_edited_are_refused(tiles):
    with pytest.raises(ValueError, match="tiles or box_voting are not what this toolkit writes"):
        MODELS["mb2-ssd-lite"].with_numbers({"tiles": tiles})
