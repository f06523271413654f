"""The twelve COCO numbers: hand-computed cases, and the fast backend against pycocotools."""

import json

import cv2
import numpy as np
import pytest
from detection_factory import found, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.datasets.coco_index import load_coco_index
from vision.evaluation import coco_arrays
from vision.evaluation.coco_arrays import compute_arrays
from vision.evaluation.coco_boxes import Detections, GroundTruth, ground_truth_from_index
from vision.evaluation.coco_eval import compute_arrays_pycocotools, evaluate_boxes

BOTH = pytest.mark.parametrize("evaluator", ["fast", "pycocotools"])
NAMES = ["cat", "dog", "owl"]
ONE = pytest.approx(1.0)  # COCO's precision is tp / (tp + fp + 2e-16)


def as_found(gt: GroundTruth) -> Detections:
    keep = ~gt.iscrowd
    boxes = gt.boxes_xywh[keep]
    return Detections(gt.image_index[keep], gt.labels[keep], boxes, np.ones(len(boxes)))


@BOTH
def test_ground_truth_against_itself_is_one(evaluator):
    gt = truth((0, 1, 10, 10, 20, 20), (0, 1, 15, 15, 20, 20), (1, 3, 0, 0, 100, 100))
    metrics = evaluate_boxes(gt, as_found(gt), class_names=NAMES, evaluator=evaluator)
    ones = [metrics[name] for name in ("AP", "AP50", "AR100", "APs", "APl")]
    assert ones == [ONE] * 5
    assert metrics["AR1"] == 0.75  # one of two cats, and the owl
    assert metrics["APm"] is None
    per_class = metrics["per_class"]
    assert per_class["cat"] == pytest.approx({"AP": 1, "AP50": 1, "AR100": 1, "num_gt": 2})
    assert per_class["owl"] == pytest.approx({"AP": 1, "AP50": 1, "AR100": 1, "num_gt": 1})
    assert per_class["dog"] == {"AP": None, "AP50": None, "AR100": None, "num_gt": 0}


@BOTH
def test_numbers_computed_by_hand(evaluator):
    gt = truth((0, 1, 0, 0, 10, 10), (1, 1, 0, 0, 10, 10))
    # A hit with IoU 0.8 (100 of 125), then a miss, then a perfect hit.
    dt = found((0, 1, 0, 0, 12.5, 10, 0.9), (0, 1, 50, 50, 9, 9, 0.8), (1, 1, 0, 0, 10, 10, 0.7))
    metrics = evaluate_boxes(gt, dt, class_names=NAMES, evaluator=evaluator)
    # Precision 1 up to recall 0.5 (51 of the 101 points), 2/3 beyond.
    assert metrics["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # At 0.85, 0.9 and 0.95 only the last is a hit: precision 1/3 up to recall 0.5.
    high = 51 / 3 / 101
    assert metrics["AP"] == pytest.approx(0.7 * metrics["AP50"] + 0.3 * high)
    assert metrics["AR100"] == pytest.approx(0.7 * 1 + 0.3 * 0.5)
    assert metrics["APs"] == metrics["AP"]
    assert metrics["APl"] is None


@BOTH
def test_nothing_detected_is_zero(evaluator):
    gt = truth((0, 1, 10, 10, 20, 20))
    metrics = evaluate_boxes(gt, found(), class_names=NAMES, evaluator=evaluator)
    assert metrics["AP"] == metrics["AP50"] == metrics["AR100"] == metrics["APs"] == 0.0
    assert metrics["APl"] is None
    assert metrics["per_class"]["cat"]["AP"] == 0.0
    assert metrics["per_class"]["dog"]["AP"] is None


@BOTH
@pytest.mark.parametrize("detections", [found(), found((0, 1, 0, 0, 5, 5, 0.5))])
def test_no_ground_truth_is_none(evaluator, detections):
    metrics = evaluate_boxes(truth(), detections, class_names=NAMES, evaluator=evaluator)
    assert [value for name, value in metrics.items() if name != "per_class"] == [None] * 12


@BOTH
def test_absent_class_is_not_in_the_mean(evaluator):
    gt = truth((0, 1, 10, 10, 20, 20))
    dt = found((0, 1, 10, 10, 20, 20, 0.9), (0, 2, 10, 10, 20, 20, 0.9))
    assert evaluate_boxes(gt, dt, class_names=NAMES, evaluator=evaluator)["AP"] == ONE


@BOTH
def test_detections_inside_a_crowd_are_neither_right_nor_wrong(evaluator):
    gt = truth((0, 1, 0, 0, 10, 10), (0, 1, 100, 100, 200, 200, 1))
    dt = found(
        (0, 1, 120, 120, 20, 20, 0.9), (0, 1, 150, 150, 20, 20, 0.8), (0, 1, 0, 0, 10, 10, 0.7)
    )
    metrics = evaluate_boxes(gt, dt, class_names=NAMES, evaluator=evaluator)
    assert metrics["AP"] == ONE
    assert metrics["per_class"]["cat"]["num_gt"] == 1


@BOTH
def test_of_equal_overlaps_the_last_ground_truth_is_taken(evaluator):
    gt = truth((0, 1, 0, 0, 10, 10), (0, 1, 2, 0, 10, 10))
    # The first lies between them (IoU 9 / 11 with each), the second is the first of the two.
    dt = found((0, 1, 1, 0, 10, 10, 0.9), (0, 1, 0, 0, 10, 10, 0.8))
    metrics = evaluate_boxes(gt, dt, class_names=NAMES, evaluator=evaluator)
    # Up to IoU 0.8 both are right, beyond only the second.
    assert metrics["AR100"] == pytest.approx(0.7 * 1 + 0.3 * 0.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 4, 0, 0, 5, 5, 0.5), "label 4"),
        ((0, 0, 0, 0, 5, 5, 0.5), "label 0"),
        ((2, 1, 0, 0, 5, 5, 0.5), "image index 2"),
        ((0, 1, 0, 0, np.nan, 5, 0.5), "not finite"),
        ((0, 1, 0, 0, 5, 5, np.inf), "not finite"),
    ],
)
def test_impossible_detections_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        evaluate_boxes(truth((0, 1, 0, 0, 9, 9)), found(row), class_names=NAMES)


def test_unknown_evaluator_is_refused():
    with pytest.raises(ValueError, match="fast or pycocotools"):
        evaluate_boxes(truth(), found(), class_names=NAMES, evaluator="voc")


def random_case(
    rng: np.random.Generator, *, images: int, classes: int, crowded: bool, tied: bool
) -> tuple[GroundTruth, Detections]:
    """Boxes on a coarse grid, so that equal IoUs, scores and area edges (32 and 96 px) abound."""
    num_gt = int(rng.integers(0, 8 * images))
    num_dt = int(rng.integers(0, 400 if crowded else 15 * images))
    edges = np.array([8, 16, 32, 32, 64, 96, 96, 128]) if tied else rng.uniform(4, 150, 64)
    grid = 16 if tied else 1
    image_pool = rng.integers(0, images, max(1, images // 2))  # the others stay empty
    label_pool = rng.integers(1, classes + 1, max(1, classes // 2))

    def boxes(count):
        corners = rng.integers(0, 160 // grid, (count, 2)) * grid
        return np.concatenate([corners, rng.choice(edges, (count, 2))], axis=1).astype(float)

    gt_boxes = boxes(num_gt)
    dt_boxes = boxes(num_dt)
    if num_gt and num_dt:
        near = rng.random(num_dt) < 0.6
        dt_boxes[near] = gt_boxes[rng.integers(0, num_gt, near.sum())]
        if not tied:
            dt_boxes[near] += rng.normal(0, 4, (near.sum(), 4))
            dt_boxes[:, 2:] = dt_boxes[:, 2:].clip(1)
    areas = gt_boxes[:, 2] * gt_boxes[:, 3] * rng.choice([1, 0.5], num_gt)
    gt = GroundTruth(
        num_images=images,
        num_classes=classes,
        image_index=rng.choice(image_pool, num_gt),
        labels=rng.choice(label_pool, num_gt),
        boxes_xywh=gt_boxes,
        areas=areas,
        iscrowd=rng.random(num_gt) < 0.15,
    )
    dt = Detections(
        image_index=rng.choice(image_pool, num_dt),
        labels=rng.choice([*label_pool, classes], num_dt),
        boxes_xywh=dt_boxes,
        scores=rng.integers(1, 8, num_dt) / 8 if tied else rng.random(num_dt),
    )
    return gt, dt


def assert_same_arrays(gt: GroundTruth, dt: Detections) -> None:
    names = ("precision", "recall", "scores")
    ours, theirs = compute_arrays(gt, dt), compute_arrays_pycocotools(gt, dt)
    for name, mine, oracle in zip(names, ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, oracle, err_msg=name)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 6),
    classes=st.integers(1, 5),
    crowded=st.booleans(),
    tied=st.booleans(),
)
def test_fast_arrays_equal_pycocotools(seed, images, classes, crowded, tied):
    rng = np.random.default_rng(seed)
    assert_same_arrays(
        *random_case(rng, images=images, classes=classes, crowded=crowded, tied=tied)
    )


def test_fast_arrays_equal_pycocotools_beyond_100_detections():
    rng = np.random.default_rng(5)
    gt, dt = random_case(rng, images=2, classes=1, crowded=True, tied=True)
    assert np.bincount(dt.image_index).max() > 100
    assert_same_arrays(gt, dt)


def test_chunked_overlaps_change_nothing(monkeypatch):
    gt, dt = random_case(np.random.default_rng(1), images=5, classes=3, crowded=True, tied=True)
    pairwise_iou, sizes = coco_arrays.pairwise_iou, []
    monkeypatch.setattr(
        coco_arrays,
        "pairwise_iou",
        lambda *args: sizes.append(len(args[0])) or pairwise_iou(*args),
    )
    whole = compute_arrays(gt, dt)
    (num_pairs,) = sizes
    monkeypatch.setattr(coco_arrays, "_PAIRS_AT_ONCE", 7)
    for a, b in zip(whole, compute_arrays(gt, dt), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(sizes[1:]) == num_pairs and len(sizes) > 10


def test_ids_of_the_file_do_not_matter(tmp_path):
    """Annotation id 0, sparse ids and images out of order: pycocotools alone would lose one."""
    content = {
        "images": [
            {"id": 900, "file_name": "b.jpg", "width": 64, "height": 64},
            {"id": 0, "file_name": "a.jpg", "width": 64, "height": 64},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 0, "name": "cat"}, {"id": 7, "name": "x"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 40, 40], "area": 1600},
            {"id": 5, "image_id": 900, "category_id": 90, "bbox": [4, 4, 9, 9], "iscrowd": 0},
            {"id": 6, "image_id": 900, "category_id": 90, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        ],
    }
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps(content))
    index = load_coco_index(path)
    gt = ground_truth_from_index(index)
    assert (gt.num_images, gt.num_classes) == (2, 3)
    names = [category.name for category in index.categories]
    metrics = evaluate_boxes(gt, as_found(gt), class_names=names)
    assert (metrics["AP"], metrics["per_class"]["x"]["AP"]) == (ONE, None)
    limited = ground_truth_from_index([index, index], np.array([3, 0]))
    np.testing.assert_array_equal(
        np.concatenate([limited.image_index[:, None], limited.labels[:, None]], axis=1),
        [[0, gt.labels[gt.image_index == 1][0]]]
        + [[1, label] for label in gt.labels[gt.image_index == 0]],
    )


def test_upstream_detections_give_the_upstream_numbers(shared):
    """The original's detections on the finetune val split and the numbers pycocotools gave it."""
    golden = json.loads((shared / "golden/val_detections.json").read_text())
    root = shared / "data/finetune_dataset"
    rows = []
    for image, line in enumerate((root / "splits/val.txt").read_text().split()):
        name = line.rsplit("/", 1)[-1]
        height, width = cv2.imread(str(root / "images" / name)).shape[:2]
        label_file = root / "labels" / f"{name.rsplit('.', 1)[0]}.txt"
        for label in label_file.read_text().splitlines():
            number, x, y, w, h = map(float, label.split()[:5])
            box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
            if w * h > 0:  # one published label is a point
                rows.append((image, int(number) + 1, *box))
    num_images = image + 1
    dt = found(
        *(
            (item["image_id"] - 1, item["category_id"], *item["bbox"], item["score"])
            for item in golden["detections"]
        )
    )
    metrics = evaluate_boxes(truth(*rows, num_images=num_images), dt, class_names=NAMES)
    for name, value in golden["metrics"].items():
        assert metrics[name] == pytest.approx(value, abs=1e-9), name
