"""The joint transforms: pixels and boxes move together, for every preset and edge case."""

from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import pytest
import torch

from vision.transforms.geometry import RandomExpand, RandomIouCrop, View, place_boxes, place_view
from vision.transforms.normalize import normalize_images
from vision.transforms.photometric import PhotometricDistort
from vision.transforms.presets import (
    PRESETS,
    Augmentation,
    ViewTransform,
    build_eval_transform,
    build_train_transform,
)

MEAN = (127.0, 127.0, 127.0)
FULL = View(0, 0, 640, 480)


def make_target(*boxes, crowd=()):
    count = len(boxes)
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.arange(1, count + 1, dtype=np.int64),
        "iscrowd": np.array([i in crowd for i in range(count)], bool),
        "image_id": 7,
    }


def noise_image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Evaluation and the plain stretch


def test_eval_stretches_pixels_and_boxes():
    image = np.zeros((480, 640, 3), np.uint8)
    image[120:240, 320:480] = 255
    target = make_target([320, 120, 480, 240], [0, 0, 640, 480])
    out, moved = build_eval_transform((240, 160))(image, target)
    assert out.shape == (240, 160, 3) and out.dtype == np.uint8
    np.testing.assert_allclose(moved["boxes"], [[80, 60, 120, 120], [0, 0, 160, 240]])
    assert moved["boxes"].dtype == np.float32
    assert (out[61:119, 81:119] == 255).all() and (out[:58] == 0).all()
    assert moved["image_id"] == 7


def test_box_narrower_than_one_output_pixel_is_dropped():
    target = make_target([10, 10, 12, 100], [10, 10, 13, 100])  # 0.9 and 1.4 output pixels
    _, moved = build_eval_transform((300, 300))(np.zeros((640, 640, 3), np.uint8), target)
    assert moved["labels"].tolist() == [2]


# Rectangles


def test_view_inside_the_image_fills_the_output():
    placement = place_view(View(100, 50, 300, 150), (480, 640), (90, 120))
    assert placement.source == (100, 50, 300, 150)
    assert placement.output == (0, 0, 120, 90)


def test_view_beyond_the_image_leaves_a_border():
    placement = place_view(View(-640, -480, 1280, 960), (480, 640), (300, 300))
    assert placement.source == (0, 0, 640, 480)
    assert placement.output == (100, 100, 200, 200)


def test_view_past_the_image_keeps_one_pixel():
    placement = place_view(View(700, -100, 900, 1), (480, 640), (300, 300))
    assert placement.source == (639, 0, 640, 1)
    x1, y1, x2, y2 = placement.output
    assert 0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 300


def test_boxes_follow_the_center_rule():
    placement = place_view(View(100, 100, 200, 200), (480, 640), (300, 300))
    target = make_target(
        [90, 110, 130, 150],  # centre inside, clipped at the left
        [60, 110, 130, 150],  # centre outside
        [150, 150, 400, 400],  # centre outside, a crowd: its visible part stays
        [300, 300, 400, 400],  # a crowd out of sight
        crowd=(2, 3),
    )
    moved = place_boxes(target, placement, output_width=300, flip=False)
    np.testing.assert_allclose(moved["boxes"], [[0, 30, 90, 150], [150, 150, 300, 300]])
    assert moved["labels"].tolist() == [1, 3]
    assert moved["iscrowd"].tolist() == [False, True]


def test_flip_mirrors_boxes():
    placement = place_view(FULL, (480, 640), (240, 320))
    moved = place_boxes(make_target([20, 40, 100, 240]), placement, output_width=320, flip=True)
    np.testing.assert_allclose(moved["boxes"], [[270, 20, 310, 120]])


@pytest.mark.parametrize("image_size", [(300, 300), (200, 320)], ids=["square", "wide"])
@pytest.mark.parametrize("name", PRESETS)
def test_pixels_and_boxes_move_together(name, image_size):
    """A white rectangle on black stays where its box says, by rows and columns of the output."""
    image = np.zeros((240, 320, 3), np.uint8)
    image[60:140, 90:210] = 255
    target = make_target([90, 60, 210, 140])
    geometry = Augmentation(None, PRESETS[name].expand, PRESETS[name].crop, 0.5)
    transform = ViewTransform(image_size, (0, 0, 0), geometry)
    for seed in range(60):
        out, moved = transform(image, target, np.random.default_rng(seed))
        assert out.shape == (*image_size, 3)
        white = out[:, :, 0] > 127
        columns, rows = np.flatnonzero(white.any(axis=0)), np.flatnonzero(white.any(axis=1))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(moved["boxes"], [found], atol=1.0)


def test_crop_ignores_crowds():
    """A crowd over everything would satisfy each least IoU; the small box does not."""
    target = make_target([20, 20, 60, 60], [0, 0, 640, 480], crowd=(1,))
    transform = ViewTransform((300, 300), (0, 0, 0), Augmentation(crop=RandomIouCrop()))
    for seed in range(50):
        _, moved = transform(np.zeros((480, 640, 3), np.uint8), target, np.random.default_rng(seed))
        assert moved["labels"].tolist() == [1, 2]


def test_fill_is_not_distorted():
    transform = ViewTransform(
        (100, 100),
        (10, 20, 30),
        Augmentation(PhotometricDistort(probability=1.0), RandomExpand(4.0, probability=1.0)),
    )
    out, _ = transform(np.full((50, 50, 3), 200, np.uint8), make_target(), np.random.default_rng(8))
    filled = (out == (10, 20, 30)).all(axis=2)
    assert filled.mean() > 0.5 and filled.mean() < 1.0
    assert len(np.unique(out[~filled], axis=0)) == 1


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_image_without_boxes_is_augmented(name):
    transform = build_train_transform(name, image_size=(120, 160), mean=MEAN)
    image, outputs = noise_image(90, 110), set()
    for seed in range(8):
        out, moved = transform(image, make_target(), np.random.default_rng(seed))
        assert out.shape == (120, 160, 3)
        assert moved["boxes"].shape == (0, 4) and moved["boxes"].dtype == np.float32
        assert moved["labels"].shape == (0,) and moved["iscrowd"].dtype == bool
        outputs.add(out.tobytes())
    assert len(outputs) == {"none": 1, "flip": 2}.get(name, 8)


@pytest.mark.parametrize("name", PRESETS)
def test_output_is_a_function_of_the_rng_and_input_is_untouched(name):
    transform = build_train_transform(name, image_size=(100, 140), mean=MEAN)
    image, target = noise_image(96, 64), make_target([5, 5, 40, 60], [20, 30, 60, 90])
    image_before, boxes_before = image.copy(), target["boxes"].copy()
    first, first_target = transform(image, target, np.random.default_rng((1, 2, 3)))
    again, again_target = transform(image, target, np.random.default_rng((1, 2, 3)))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_target["boxes"], again_target["boxes"])
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(target["boxes"], boxes_before)


@pytest.mark.parametrize("name", PRESETS)
def test_boxes_are_valid_over_many_random_images(name):
    transform = build_train_transform(name, image_size=(150, 200), mean=MEAN)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(1, 200, size=2)
        corners = rng.random((rng.integers(0, 9), 2, 2)) * (width, height)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        image = np.zeros((height, width, 3), np.uint8)
        out, moved = transform(image, make_target(*boxes, crowd=(1,)), rng)
        boxes = moved["boxes"]
        assert out.shape == (150, 200, 3) and out.flags.c_contiguous
        assert len(boxes) == len(moved["labels"]) == len(moved["iscrowd"])
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [200, 150]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 0.999).all()


@pytest.mark.parametrize("name", PRESETS)
def test_a_plan_allows_a_smaller_decode(name):
    """Half an image of twice the needed size gives the same boxes and nearly its pixels."""
    blurred = cv2.GaussianBlur(noise_image(900, 1200), (0, 0), 8)
    target = make_target([200, 100, 700, 800], [800, 500, 1100, 700])
    transform = build_train_transform(name, image_size=(100, 120), mean=MEAN)
    num_reduced = 0
    for seed in range(40):
        whole, whole_target = transform(blurred, target, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        plan = transform.plan((900, 1200), target, rng)
        if plan.min_size[0] > 450 or plan.min_size[1] > 600:
            continue
        num_reduced += 1
        half = cv2.resize(blurred, (600, 450), interpolation=cv2.INTER_AREA)
        out, moved = transform.apply(half, target, plan, rng)
        assert np.abs(out.astype(int) - whole).mean() < 6
        np.testing.assert_allclose(moved["boxes"], whole_target["boxes"], atol=1.0)
        assert moved["boxes"].dtype == np.float32
    assert num_reduced > 20


def test_min_size_is_what_the_view_needs():
    transform = build_train_transform("none", image_size=(300, 320), mean=MEAN)
    plan = transform.plan((3001, 4000), make_target())
    assert plan.min_size == (300, 320)
    crop = Augmentation(crop=RandomIouCrop(min_ious=(0.0,), min_size=0.5))
    plan = ViewTransform((300, 320), (0, 0, 0), crop).plan(
        (3000, 4000), make_target([1900, 1400, 2100, 1600]), np.random.default_rng(1)
    )
    width, height = plan.view.x2 - plan.view.x1, plan.view.y2 - plan.view.y1
    assert plan.view != (0, 0, 4000, 3000)
    assert plan.min_size == (int(np.ceil(900_000 / height)), int(np.ceil(1_280_000 / width)))


def test_evaluation_decodes_whole_images_as_a_device_does():
    plan = build_eval_transform((300, 320)).plan((3001, 4000), make_target())
    assert plan.min_size == (3001, 4000)


def test_unknown_preset_names_the_choices():
    with pytest.raises(ValueError, match=r"'strong'.*ssd, light, flip, none"):
        build_train_transform("strong", image_size=(300, 300), mean=MEAN)


@pytest.mark.parametrize("name", PRESETS)
def test_workers_can_be_spawned_with_a_transform(name):
    transform = build_train_transform(name, image_size=(300, 300), mean=MEAN)
    assert ForkingPickler.loads(ForkingPickler.dumps(transform)) == transform


# Normalisation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalize_is_exact_for_every_level(dtype):
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    out = normalize_images(levels, mean=[127] * 3, std=[128] * 3, dtype=dtype)
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    expected = (levels.double() - 127) / 128
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalize_by_channel(dtype):
    """One rounding at most, whatever the type: the means themselves are not rounded."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    out = normalize_images(levels, mean=mean, std=std, dtype=dtype)
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    by_channel = [(levels[:, c].double() - mean[c]) / std[c] for c in range(3)]
    expected = torch.stack(by_channel, dim=1)
    tolerance = {"rtol": torch.finfo(dtype).eps, "atol": 1e-6}
    torch.testing.assert_close(out.double(), expected, **tolerance)


def test_normalize_leaves_the_batch_alone():
    images = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    out = normalize_images(
        images, mean=[127] * 3, std=[128] * 3, memory_format=torch.contiguous_format
    )
    assert (images == 255).all() and (out == 1.0).all() and out.is_contiguous()
