"""--overfit's verdict, and what it finds wrong when the images were not learned."""

import json

import cv2
import numpy as np
import pytest
from script_runs import FAST, call

from vision.args import parse_train_args
from vision.training.overfit import overfit, step_options


def write_images(root, boxes, *, count=2):
    """Images of 96x96 px of noise, with these boxes [category, x, y, w, h] in each, filled."""
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    rng = np.random.default_rng(0)
    numbers = range(1, count + 1)
    for i in numbers:
        pixels = rng.integers(0, 100, (96, 96, 3), np.uint8)
        for category, x, y, w, h in boxes:
            pixels[y : y + h, x : x + w] = 250 if category == 1 else 140
        cv2.imwrite(str(root / f"train/{i}.png"), pixels)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 96, "width": 96} for i in numbers],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": c, "bbox": box}
            for i in numbers
            for k, (c, *box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def try_out(root, *flags, max_steps):
    argv = ["--datasets", str(root), "--overfit=2", *FAST, *flags]
    return overfit(parse_train_args(argv)[0], max_steps=max_steps, rounds=1)


def test_images_that_can_be_learned_are_learned(tmp_path):
    root = write_images(tmp_path / "data", [(1, 5, 5, 40, 40), (2, 50, 50, 42, 30)], count=4)
    result = call("train_ssd", "--datasets", root, "--overfit=4", *FAST)
    assert (result.code, result.errors) == (0, [])
    assert "--overfit 4: AP50" in result.out and result.out.rstrip().endswith("passed")


def test_images_that_can_be_learned_are_within_reach(tmp_path):
    root = write_images(tmp_path / "data", [(1, 5, 5, 40, 40), (2, 50, 50, 42, 30)])
    result = try_out(root, "--lr=1e-9", max_steps=2)
    assert result.ceiling_ap50 == pytest.approx(1)
    assert result.ap50 <= 0.9
    (line,) = [line for line in result.suspects if "the loss went from" in line]
    assert "--lr" in line


def test_objects_in_the_same_place_are_found_to_share_their_priors(tmp_path):
    root = write_images(tmp_path / "data", [(1, 20, 20, 9, 9), (2, 20, 20, 9, 9)])
    result = try_out(root, "--lr=1e-9", max_steps=1)
    # So small that only the best prior is theirs: one of the two classes gets it.
    assert result.ceiling_ap50 == pytest.approx(0.5)
    assert any("objects share their best prior" in line for line in result.suspects)


def test_objects_smaller_than_the_priors_are_found(tmp_path):
    root = write_images(tmp_path / "data", [(1, 10, 10, 5, 5), (2, 50, 50, 60, 4)])
    result = try_out(root, "--lr=1e-9", max_steps=1)
    (line,) = [line for line in result.suspects if "overlap no prior" in line]
    assert line.startswith("100% of the boxes") and "--prior-sizes" in line


def test_it_computes_in_fp32_unless_told_otherwise(tmp_path):
    root = write_images(tmp_path / "data", [(1, 5, 5, 40, 40)])
    fast = [flag for flag in FAST if not flag.startswith("--precision")]
    argv = ["--datasets", str(root), "--overfit=2", *fast]
    assert step_options(parse_train_args(argv)[0]).precision == "fp32"
    args, _ = parse_train_args([*argv, "--precision=bf16"])
    assert step_options(args).precision == "bf16"
