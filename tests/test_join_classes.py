"""Data sets of different classes and layouts, trained and evaluated together."""

import json

import numpy as np
import pytest
import torch
from script_runs import FAST, call
from test_data import GOOD, box, open_val, write_coco
from test_loss import PRIORS, target
from voc_factory import CAT, make_voc, voc_object, voc_xml
from yolo_factory import BOX, make_folder, write_image

from vision.datasets.choose_images import balanced
from vision.datasets.coco import CocoDetection
from vision.datasets.join_classes import differences, with_classes
from vision.datasets.layouts.layout import OpenOptions
from vision.evaluation.coco_boxes import Detections, ground_truth_from_index
from vision.ssd.loss import MultiBoxLoss
from vision.training.data import open_sources
from vision.transforms.presets import build_eval_transform


def make_images(root, split, count):
    for number in range(1, count + 1):
        write_image(root / split / f"{number}.jpg")
    return root


def coco(root, names, boxes, split="train"):
    return make_images(write_coco(root, boxes=boxes, names=names, split=split), split, len(boxes))


def test_labels_follow_the_names(tmp_path):
    a = coco(tmp_path / "a", ["cat", "dog"], [[box(3, 0, 0, 9, 9), box(6, 1, 1, 9, 9)]])
    b = coco(tmp_path / "b", ["fox", "dog"], [[box(3, 2, 2, 9, 9)], [box(6, 3, 3, 9, 9)]])
    data = open_sources([a, b])
    assert data.train.class_names == ["cat", "dog", "fox"]
    first, second = data.train.indices
    assert first.labels.tolist() == [1, 2] and second.labels.tolist() == [3, 2]
    assert first.unannotated == {3} and second.unannotated == {1}
    turned = with_classes(first, ["fox", "cat", "dog"])  # once more, in another order
    assert turned.labels.tolist() == [2, 3] and turned.unannotated == {1}
    with_order = open_sources([b, a])
    assert with_order.train.class_names == ["fox", "dog", "cat"]


def test_the_same_classes_change_nothing(tmp_path):
    a = coco(tmp_path / "a", ["cat", "dog"], [[GOOD]])
    b = coco(tmp_path / "b", ["cat", "dog"], [[GOOD]])
    data = open_sources([a, b])
    assert not any(index.unannotated for index in data.train.indices)
    dataset = CocoDetection(data.train.sources, transform=build_eval_transform((64, 64)))
    assert "unannotated" not in dataset[0][1]


def test_three_layouts_in_one_run(tmp_path, caplog):
    """Each folder is recognised; a flag of one layout is for that one."""
    roots = [
        coco(tmp_path / "coco", ["cat", "dog"], [[GOOD]]),
        make_folder(tmp_path / "yolo", {"a.jpg": BOX}, split="train"),
        make_voc(
            tmp_path / "voc",
            {"a": voc_xml(CAT, voc_object("owl", 1, 1, 9, 9, difficult=1))},
            {"train": "a\n"},
        ),
    ]
    data = open_sources(roots, options=OpenOptions(use_difficult=True))
    assert data.train.class_names == ["cat", "dog", "bird", "owl"]
    assert [index.iscrowd.sum() for index in data.train.indices] == [0, 0, 0]
    assert "not annotated there, and not counted in its images" in caplog.text
    with pytest.raises(ValueError, match="--use-difficult has no meaning there"):
        open_sources(roots[:2], options=OpenOptions(use_difficult=True))


def test_an_image_teaches_nothing_of_a_class_that_it_is_not_annotated_for():
    loss_fn = MultiBoxLoss(PRIORS, image_size=(100, 100), iou_threshold=0.5)
    absent = torch.tensor([False, False, True])
    logits = torch.randn(2, 4, 3, requires_grad=True)
    targets = [
        {**target([5, 5, 45, 45], labels=[1]), "unannotated": absent},
        {**target([5, 5, 45, 45], labels=[2]), "unannotated": torch.zeros(3, dtype=torch.bool)},
    ]
    losses = loss_fn(logits, torch.zeros(2, 4, 4), targets)
    losses["loss"].backward()
    assert (logits.grad[0, :, 2] == 0).all() and (logits.grad[1, :, 2] != 0).any()
    # Of the others it teaches what a loss without that class does.
    alone = loss_fn(logits[:1, :, :2], torch.zeros(1, 4, 4), [target([5, 5, 45, 45], labels=[1])])
    masked = loss_fn(logits[:1], torch.zeros(1, 4, 4), targets[:1])
    assert masked["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-6)


def test_a_detection_of_an_unannotated_class_does_not_count(tmp_path):
    a = coco(tmp_path / "a", ["cat"], [[GOOD]], split="val")
    b = coco(tmp_path / "b", ["dog"], [[GOOD], []], split="val")
    names = ["cat", "dog"]
    sources = [with_classes(index, names) for index in open_val(a, b).indices]
    truth = ground_truth_from_index(sources)
    found = Detections(
        image_index=np.array([0, 0, 1, 2, 2]),
        labels=np.array([1, 2, 1, 1, 2]),
        boxes_xywh=np.zeros((5, 4)),
        scores=np.ones(5),
    )
    counted = truth.counted(found)
    assert counted.image_index.tolist() == [0, 2] and counted.labels.tolist() == [1, 2]
    chosen = ground_truth_from_index(sources, np.array([2, 0]))
    assert chosen.unannotated.tolist() == [[False, True, False], [False, False, True]]


def test_classes_of_a_model(tmp_path):
    index = open_val(write_coco(tmp_path, boxes=[[GOOD, box(6, 1, 1, 9, 9)]])).indices[0]
    aligned = with_classes(index, ["dog", "Cat", "owl"])
    assert aligned.labels.tolist() == [1] and aligned.unannotated == {2, 3}
    assert aligned.box_offsets.tolist() == [0, 1]
    assert aligned.clipped_boxes.tolist() == [[1, 1, 10, 10]]
    assert len({category.category_id for category in aligned.categories}) == 3
    assert differences(index, ["dog", "Cat", "owl"]) == [
        "Cat, owl not annotated there, and not counted in its images",
        "cat (1 boxes) left out",
        "'cat' may be meant as 'Cat': rename it there",
    ]
    with pytest.raises(ValueError, match="has none of the classes"):
        with_classes(index, ["fox"])


def test_a_model_with_one_name_twice_is_refused(tmp_path):
    """Its description was edited: metrics.json has one entry for each name."""
    index = open_sources([coco(tmp_path, ["cat", "dog"], [[GOOD]])]).train.indices[0]
    with pytest.raises(ValueError, match="of 'cat' in it two classes are wanted"):
        with_classes(index, ["cat", "dog", "cat"])
    assert len(with_classes(index, ["cat", "old", "old"]).categories) == 3


def test_balanced_by_hand(tmp_path):
    """Two dogs, five cats: two images with a cat, both with a dog, the empty one never."""
    boxes = [[GOOD] for _ in range(5)] + [[box(6, 0, 0, 9, 9)], [box(6, 0, 0, 9, 9)], []]
    sources = open_sources([coco(tmp_path, ["cat", "dog"], boxes)]).train.sources
    (source,) = balanced(sources, seed=1)
    names = [source.index.file_name(row) for row in range(len(source.index))]
    assert len(names) == 4 and {"6.jpg", "7.jpg"} < set(names)
    assert source.index.boxes_per_class().tolist() == [2, 2]
    (again,) = balanced(sources, seed=1)
    assert again.index.name_bytes == source.index.name_bytes
    seeds = {balanced(sources, seed=seed)[0].index.name_bytes for seed in range(9)}
    assert len(seeds) > 1


def test_any_pair_of_files_trains_resumes_and_evaluates(tmp_path):
    coco(tmp_path, ["cat", "dog"], [[GOOD], [box(6, 5, 5, 30, 30)], [GOOD]], split="train")
    coco(tmp_path, ["cat", "dog"], [[GOOD]], split="val")
    files = [tmp_path / f"{name}.json" for name in ("mine", "more", "check")]
    for file, split in zip(files, ("train", "train", "val"), strict=True):
        content = json.loads((tmp_path / f"annotations/instances_{split}.json").read_text())
        file.write_text(json.dumps(content))
    run = tmp_path / "run"
    pairs = ("--train-json", *files[:2], "--train-images", tmp_path / "train")
    pairs += ("--val-json", files[2], "--val-images", tmp_path / "val")
    done = call("train_ssd", *pairs, *FAST, "--checkpoint-folder", run)
    assert done.code == 0, done.err
    assert "train: 6 images" in done.err and "val: 1 images" in done.err
    assert call("train_ssd", "--resume", run, "--epochs=2").code == 0
    done = call("eval_ssd", "--trained-model", run, "--workers=0", *map(str, pairs[-4:]))
    assert done.code == 0 and "cat" in done.out
    done = call("eval_ssd", "--trained-model", run, "--val-json", files[2])
    assert done.code == 2 and "--val-images" in done.err
    done = call("train_ssd", *pairs[:-1], tmp_path / "absent", *FAST, "--dry-run")
    assert done.code == 1 and done.errors == [f"error: {tmp_path}/absent: no such folder of images"]
