"""check_dataset.py and split_dataset.py: what is found, what is not, and what is written."""

import json
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from script_runs import call, tree
from voc_factory import CAT, make_voc, voc_xml

from vision.datasets.annotation_index import Category, build_index
from vision.datasets.layouts.choose import open_folder
from vision.datasets.sample import write_sample_dataset
from vision.doctor import duplicates
from vision.doctor.check import check_folder
from vision.doctor.divide import assign
from vision.doctor.duplicates import MOST_BITS, groups_of, near_pairs, popcount
from vision.doctor.look import look_at_images, perceptual_hash
from vision.doctor.suggest import Coverage, suggest_flags


def picture(seed: int, *, height=240, width=320) -> np.ndarray:
    """Smooth random blobs, unlike those of any other seed: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path, pixels, quality=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


def write_coco(root, splits: dict[str, dict[str, np.ndarray]]):
    """A COCO folder; each image has one box of the category 1."""
    for split, images in splits.items():
        for name, pixels in images.items():
            write(root / split / name, pixels)
        sizes = {"height": 240, "width": 320}
        content = {
            "images": [{"id": i, "file_name": n, **sizes} for i, n in enumerate(images, 1)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 60, 60]}
                for i in range(1, len(images) + 1)
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def kinds(data) -> dict[str, int]:
    return {f"{item.kind}": item.count for item in data.findings if item.kind != "accepted"}


# ---- images


def test_the_hash_survives_what_an_encoder_and_a_resize_do(tmp_path):
    original = picture(1)
    variants = [
        write(tmp_path / "a.jpg", original),
        write(tmp_path / "b.jpg", original, quality=40),
        write(tmp_path / "c.png", original),
        write(tmp_path / "d.jpg", cv2.resize(original, (200, 150))),
        write(tmp_path / "e.jpg", cv2.convertScaleAbs(original, alpha=0.95, beta=6)),
    ]
    looks = look_at_images([str(path) for path in variants])
    assert looks.problems == {}
    assert popcount(looks.hashes ^ looks.hashes[0]).max() <= MOST_BITS
    everything = np.arange(5)
    assert len(np.unique(near_pairs(looks, everything, everything)[:, 0])) == 5


def test_other_pictures_are_apart():
    hashes = [
        perceptual_hash(cv2.cvtColor(cv2.resize(picture(i), (32, 32)), cv2.COLOR_BGR2GRAY))
        for i in range(60)
    ]
    hashes = np.array(hashes, np.uint64)
    bits = popcount(hashes[:, None] ^ hashes[None])[np.triu_indices(60, 1)]
    assert bits.min() > MOST_BITS and 28 < bits.mean() < 36


def test_the_pairs_are_those_of_all_compared_with_all():
    """The buckets lose none that differ in MOST_BITS bits or fewer."""
    rng = np.random.default_rng(0)
    looks = look_at_images([])
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.permutation(64)[:n]) for n in range(10)] * 16)
    looks.hashes = np.concatenate([base, np.repeat(base, 4) ^ flips.astype(np.uint64)])
    count = len(looks.hashes)
    looks.thumbnails = np.zeros((count, 16, 16), np.uint8)
    bits = popcount(looks.hashes[:, None] ^ looks.hashes[None])
    expected = {(a, b) for a, b in np.argwhere(bits <= MOST_BITS).tolist() if a != b}
    everything = np.arange(count)
    assert set(map(tuple, near_pairs(looks, everything, everything).tolist())) == expected


def test_many_that_are_alike_are_not_all_compared_with_all(monkeypatch):
    looks, compared = look_at_images([]), []
    looks.hashes, looks.thumbnails = np.zeros(9000, np.uint64), np.zeros((9000, 16, 16), np.uint8)
    monkeypatch.setattr(
        duplicates, "popcount", lambda bits: compared.append(bits.size) or popcount(bits)
    )
    pairs = near_pairs(looks, np.arange(9000), np.arange(9000))
    assert (np.bincount(pairs[:, 0]) == 8).all() and len(pairs) == 72000
    assert sum(compared) < 9000 * 9000


def test_groups_by_hand():
    assert groups_of(6, np.array([[0, 3], [4, 3], [5, 1]])).tolist() == [0, 1, 2, 0, 0, 1]


# ---- findings


def test_a_clean_set(tmp_path):
    root = write_coco(tmp_path, {"train": {"a.jpg": picture(1)}, "val": {"b.jpg": picture(2)}})
    data = check_folder(open_folder(root, split="train"))
    assert kinds(data) == {"rare_class": 1}
    assert not any(item.is_wrong for item in data.findings)


def test_leaks_and_duplicates(tmp_path):
    one, two, three = picture(1), picture(2), picture(3)
    root = write_coco(
        tmp_path,
        {
            "train": {"a.jpg": one, "b.jpg": two, "c.jpg": three, "d.jpg": three},
            "val": {"e.jpg": one, "f.jpg": cv2.resize(two, (160, 120)), "g.jpg": picture(9)},
        },
    )
    content = json.loads((root / "annotations/instances_train.json").read_text())
    content["annotations"][3]["bbox"] = [100, 100, 20, 20]
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    data = check_folder(open_folder(root, split="train"))
    leaks = {item.what: item.examples for item in data.findings if item.kind == "leak"}
    assert leaks == {
        "of the 3 images of val are the same file as one of train": [
            f"{root}/val/e.jpg and {root}/train/a.jpg"
        ],
        "of the 3 images of val look the same as one of train": [
            f"{root}/val/f.jpg and {root}/train/b.jpg"
        ],
    }
    assert kinds(data)["duplicate"] == 1 and kinds(data)["contradiction"] == 1


def test_missing_and_unreadable_images(tmp_path):
    root = write_coco(tmp_path, {"train": {f"{i}.jpg": picture(i) for i in range(4)}})
    (root / "train/0.jpg").unlink()
    whole = (root / "train/1.jpg").read_bytes()
    (root / "train/1.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/2.jpg").write_bytes(b"<html>")
    data = check_folder(open_folder(root, split="train"))
    assert kinds(data) == {"missing_image": 1, "unreadable_image": 2, "rare_class": 1}


def test_images_of_another_size_than_annotated(tmp_path):
    """A training would stop at the first; one that EXIF turns may be annotated as it is stored."""
    root = write_coco(tmp_path, {"train": {f"{i}.jpg": picture(i) for i in range(4)}})
    write(root / "train/0.jpg", picture(0, height=320, width=240))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(1)).save(root / "train/1.jpg", exif=exif)
    data = check_folder(open_folder(root, split="train"))
    assert kinds(data) == {"wrong_size": 1, "rare_class": 1}
    assert data.findings[0].is_wrong
    assert data.findings[0].examples[0].endswith("0.jpg: 240x320 pixels, annotated as 320x240")


def test_a_split_that_cannot_be_read_is_a_finding(tmp_path):
    root = write_coco(tmp_path, {"train": {"a.jpg": picture(1)}, "val": {"b.jpg": picture(2)}})
    (root / "annotations/instances_val.json").write_text("{")
    done = call("check_dataset", "--dataset", root)
    assert done.code == 1 and "WRONG 1" in done.out and "malformed JSON" in done.out
    (root / "annotations/instances_train.json").write_text("{")
    done = call("check_dataset", "--dataset", root, "--json", "-")
    assert done.code == 1


def test_the_page_and_the_json(tmp_path):
    write_sample_dataset(tmp_path / "data", num_train=6, num_val=3, image_size=(120, 160))
    before = tree(tmp_path / "data")
    page, found = tmp_path / "page.html", tmp_path / "found.json"
    done = call("check_dataset", "--dataset", tmp_path / "data", "--html", page, "--json", found)
    assert done.code == 0, done.out + done.err
    assert "train 6 images" in done.out and "--base-net imagenet" in done.out
    content = json.loads(found.read_text())
    assert list(content) == [
        "images", "boxes", "classes", "shapes", "findings", "coverage", "suggested_flags",
    ]  # fmt: skip
    assert content["images"] == {"train": 6, "val": 3}
    sizes = content["shapes"]["train"]["sizes"]
    assert list(sizes) == ["5%", "25%", "50%", "75%", "95%"] and 0 < sizes["5%"] < sizes["95%"]
    assert "boxes at 300x300: half are under" in done.out
    assert set(content["coverage"]) == {"mb2-ssd-lite", "mb2-ssd-lite-fpn"}
    text = page.read_text()
    assert len(re.findall(r'<img src="data:image/jpeg', text)) == 9
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # no request
    assert tree(tmp_path / "data") == before


@pytest.mark.parametrize(
    ("size", "side", "tiles"),
    # At 300 px boxes have 300 / width of their side; in 2 x 2 tiles 1.8 times that, in 3 x 3 2.6.
    [((300, 300), 10, None), ((1200, 1200), 80, None), ((1200, 1200), 40, 2), ((1200, 1200), 30, 3),
     ((600, 600), 8, 2)],
    ids=str,
)  # fmt: skip
def test_tiles_are_suggested_where_photos_are_large_and_objects_small(size, side, tiles):
    boxes = np.array([[x, 10, side, side] for x in range(10, 200, 40)], float)
    index = build_index(
        "made up", [Category(1, 1, 1, "cat")], image_ids=np.array([1]), file_names=["a.jpg"],
        sizes=np.array([size]), rows=np.zeros(len(boxes), int), labels=np.ones(len(boxes), int),
        boxes_xywh=boxes, areas=boxes[:, 2] * boxes[:, 3], iscrowd=np.zeros(len(boxes), bool),
    )  # fmt: skip
    data = SimpleNamespace(splits={"train": SimpleNamespace(index=index)})
    flags = suggest_flags(data, [Coverage("mb2-ssd-lite", 1, 1, {})], (300, 300))
    reasons = {flag: reason for flag, reason in flags if flag.startswith("--tiles")}
    assert list(reasons) == ([f"--tiles {tiles}"] if tiles else [])
    if tiles == 3:
        (reason,) = reasons.values()
        assert "1200x1200 pixels or more, 4.0 times the side of the input" in reason
        assert "100% of the boxes are under 16 px; in the tiles 0% are; 10 times" in reason


def test_a_folder_of_no_layout(tmp_path):
    done = call("check_dataset", "--dataset", tmp_path)
    assert done.code == 1 and "no data set of a known layout" in done.err


# ---- dividing


def test_classes_are_in_proportion_and_groups_whole():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 300, 1000)
    counts = rng.poisson([3, 0.5, 0.05], (1000, 3))
    side = assign(groups, counts, [0.7, 0.2, 0.1], seed=5)
    assert all(len(set(side[groups == group].tolist())) == 1 for group in set(groups.tolist()))
    for number, share in enumerate((0.7, 0.2, 0.1)):
        assert (side == number).mean() == pytest.approx(share, abs=0.01)
        got = counts[side == number].sum(axis=0) / counts.sum(axis=0)
        assert got == pytest.approx([share] * 3, abs=0.05)
    assert (assign(groups, counts, [0.7, 0.2, 0.1], seed=5) == side).all()
    assert (assign(groups, counts, [0.7, 0.2, 0.1], seed=6) != side).any()


def test_what_the_fractions_leave_is_left_out():
    side = assign(np.arange(100), np.ones((100, 1)), [0.5, 0.2], seed=0)
    assert [int((side == number).sum()) for number in (0, 1, -1)] == [50, 20, 30]


def frames(scene: int, count: int) -> list[np.ndarray]:
    """A scene that moves a little from frame to frame."""
    wide = picture(scene, width=400)
    return [wide[:, 8 * i : 8 * i + 320] for i in range(count)]


def test_a_video_stays_on_one_side_and_trains(tmp_path):
    scenes = [picture_ for scene in range(5) for picture_ in frames(scene + 20, 8)]
    text = voc_xml(CAT, size="<width>320</width><height>240</height>")
    images = {f"{number:04d}": text for number in range(len(scenes))}
    root = make_voc(tmp_path / "voc", images, {"trainval": "".join(f"{n}\n" for n in images)})
    for name, pixels in zip(images, scenes, strict=True):
        write(root / "JPEGImages" / f"{name}.jpg", pixels)
    before = tree(root)
    out = tmp_path / "out"
    flags = ("--group-by", "video", "--fractions", "0.6", "0.4")
    done = call("split_dataset", "--dataset", root, "--output", out, *flags)
    assert done.code == 0, done.err
    assert "5 groups, the largest of 8 images" in done.out
    listed = {name: (out / f"{name}.txt").read_text().split() for name in ("train", "val")}
    scenes_of = {name: {int(path[-8:-4]) // 8 for path in paths} for name, paths in listed.items()}
    assert not scenes_of["train"] & scenes_of["val"] and len(scenes_of["train"]) == 3
    assert tree(root) == before and not (out / "test.txt").exists()
    pair = [out / "instances_train.json", root / "JPEGImages"]
    done = call("train_ssd", "--train-json", pair[0], "--train-images", pair[1], "--dry-run",
                "--workers=0", "--image-size=96")  # fmt: skip
    assert done.code == 0, done.err
    again = call("split_dataset", "--dataset", root, "--output", out, *flags)
    assert again.code == 1 and "is not empty" in again.err


def test_a_side_without_images_is_named(tmp_path):
    images = {f"one/{i}.jpg": picture(i) for i in range(4)}
    root = write_coco(tmp_path / "data", {"train": images})
    flags = ("--dataset", root, "--output", tmp_path / "out", "--group-by", "folder")
    done = call("split_dataset", *flags)
    assert done.code == 0, done.err
    assert "val: no images; use --group-by none, or other --fractions" in done.out.splitlines()


def test_folders_and_images_alone(tmp_path):
    root = write_coco(
        tmp_path / "data",
        {"train": {f"{f}/{i}.jpg": picture(i) for f in "abcd" for i in range(3)}},
    )
    for group, groups in (("folder", 4), ("none", 12)):
        out = tmp_path / group
        done = call("split_dataset", "--dataset", root, "--output", out, "--group-by", group)
        assert done.code == 0 and f"{groups} groups" in done.out


# ---- converting


def test_any_layout_becomes_coco(tmp_path):
    root = make_voc(tmp_path / "voc", {"a": voc_xml(CAT), "b": voc_xml()}, {"train": "a\nb\n"})
    out = tmp_path / "coco"
    for _ in range(2):  # it may be done again
        done = call("convert_to_coco", "--dataset", root, "--output", out)
        assert done.code == 0 and "train: 2 images, 1 boxes" in done.out, done.err
    own, converted = (open_folder(path, split="train").open("train") for path in (root, out))
    assert (converted.image_folder / "a.jpg").is_file()
    np.testing.assert_array_equal(own.index.boxes_xywh, converted.index.boxes_xywh)
    shutil.rmtree(out / "annotations")
    (out / "annotations").mkdir()
    (out / "annotations/instances_train.json").write_text("{}")
    done = call("convert_to_coco", "--dataset", root, "--output", out)
    assert done.code == 1 and "was not converted by this toolkit" in done.err
