"""The annotation index and the dataset of images and boxes on top of it."""

import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from vision.datasets.annotation_index import Category
from vision.datasets.coco import CocoDetection
from vision.datasets.coco_index import load_coco_index

PERSON_AND_CAT = [{"id": 17, "name": "cat"}, {"id": 3, "name": "person"}]


def annotation(number, image_id, box, category_id=3, **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


def image_entry(number, name, height=40, width=60):
    return {"id": number, "file_name": name, "height": height, "width": width}


def write_json(folder, **sections):
    sections = {"categories": PERSON_AND_CAT, **sections}
    path = folder / "instances_train.json"
    path.write_text(json.dumps(sections))
    return path


def keep(image, target, rng):
    """A transform at module level, so that spawned workers can import it."""
    target["draw"] = rng.integers(1 << 40)
    return image, target


class Quarter:
    """A transform that plans to need a quarter of the pixels in each direction."""

    def plan(self, source_size, target, rng):
        return SimpleNamespace(source_size=source_size, min_size=(100, 150))

    def apply(self, image, target, plan, rng):
        return image, {**target, "planned_for": plan.source_size}


IMAGES = [
    image_entry(9, "b.png"),
    image_entry(2, "a.png", 50, 30),
    image_entry(5, "sub/\u00fc.png"),
]
ANNOTATIONS = [
    annotation(1, 2, [1, 2, 10, 20], category_id=17, area=150.5, iscrowd=0),
    annotation(
        2,
        5,
        [0, 0, 60, 40],
        iscrowd=1,
        area=float("nan"),
        segmentation={"counts": [1], "size": [40, 60]},
    ),
    annotation(3, 2, [-5, 45, 10.5, 50]),  # hangs over the left and the lower border
    annotation(4, 2, [29.5, 0, 10, 10]),  # half a pixel of it is inside
    annotation(5, 2, [30, 0, 10, 10]),  # outside
    annotation(6, 2, [3, 3, 0, 7]),
    annotation(7, 5, [1, float("nan"), 4, 4]),
    annotation(8, 5, [1, 1, 4, float("inf")]),
    annotation(9, 5, [1, 1, 4]),
]


@pytest.fixture
def index(tmp_path):
    return load_coco_index(write_json(tmp_path, images=IMAGES, annotations=ANNOTATIONS))


@pytest.fixture
def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "sub").mkdir()
    for entry in IMAGES:
        pixels = rng.integers(0, 256, (entry["height"], entry["width"], 3), np.uint8)
        # through memory, as OpenCV on some systems cannot open names beyond ASCII
        data = cv2.imencode(".png", pixels[..., ::-1])[1]
        (tmp_path / entry["file_name"]).write_bytes(data.tobytes())
    return tmp_path


class TestLoadCocoIndex:
    def test_hand_computed_columns(self, index):
        assert index.categories == [Category(1, 3, 3, "person"), Category(2, 17, 17, "cat")]
        np.testing.assert_array_equal(index.image_ids, [9, 2, 5])
        np.testing.assert_array_equal(index.sizes, [[40, 60], [50, 30], [40, 60]])
        assert [index.file_name(i) for i in range(3)] == ["b.png", "a.png", "sub/\u00fc.png"]
        np.testing.assert_array_equal(index.box_offsets, [0, 0, 3, 4])
        np.testing.assert_array_equal(
            index.boxes_xywh,
            [[1, 2, 10, 20], [-5, 45, 10.5, 50], [29.5, 0, 10, 10], [0, 0, 60, 40]],
        )
        np.testing.assert_array_equal(
            index.clipped_boxes,
            [[1, 2, 11, 22], [0, 45, 5.5, 50], [29.5, 0, 30, 10], [0, 0, 60, 40]],
        )
        np.testing.assert_array_equal(index.labels, [2, 1, 1, 1])
        np.testing.assert_array_equal(index.areas, [150.5, 525, 100, 2400])
        np.testing.assert_array_equal(index.iscrowd, [False, False, False, True])
        np.testing.assert_array_equal(index.trainable, [True, True, False, True])

    def test_statistics(self, index):
        counts = {reason: len(image_ids) for reason, image_ids in index.rejected.items()}
        assert counts == {
            "not finite": 3,
            "no area inside the image": 2,
            "thinner than 1 px": 1,
        }
        assert index.num_empty_images() == 1
        np.testing.assert_array_equal(index.boxes_per_class(), [2, 1])

    def test_original_ids_come_from_the_file(self, tmp_path):
        fixed = [
            {"id": 0, "name": "person", "original_id": 3},
            {"id": 1, "name": "cat", "original_id": 17},
        ]
        index = load_coco_index(write_json(tmp_path, categories=fixed, images=IMAGES))
        assert index.categories == [Category(1, 0, 3, "person"), Category(2, 1, 17, "cat")]

    @pytest.mark.parametrize("sections", [{}, {"annotations": None}, {"annotations": []}])
    def test_without_annotations(self, tmp_path, sections):
        index = load_coco_index(write_json(tmp_path, images=IMAGES, **sections))
        assert index.boxes_xywh.shape == (0, 4)
        np.testing.assert_array_equal(index.box_offsets, [0, 0, 0, 0])
        assert index.num_empty_images() == 3

    @pytest.mark.parametrize(
        ("sections", "message"),
        [
            ({"images": []}, "no images"),
            ({"images": IMAGES, "categories": []}, "no categories"),
            ({"images": [*IMAGES, IMAGES[0]]}, r"image id 9 is there twice \(b.png, b.png\)"),
            (
                {"images": [image_entry(1, "a.png", 0, 10)]},
                r"image 1 \(a.png\) has the size 10 x 0",
            ),
            ({"images": [{"id": 1, "file_name": "a"}]}, r"image 1 \(a\) has no width and height"),
            ({"images": [{"id": [1], "file_name": "a"}]}, r"images\[0\].id"),
            (
                {"images": IMAGES, "annotations": [annotation(1, "x", [1, 2, 3, 4])]},
                r"annotation 1 has unknown image 'x'",
            ),
            (
                {"images": [image_entry("x", "a"), image_entry("x", "b")]},
                r"image id 'x' is there twice \(a, b\)",
            ),
            ({"images": IMAGES, "categories": PERSON_AND_CAT * 2}, "category id 3 is there twice"),
            ({"annotations": [annotation(7, 4, [1, 1, 2, 2])]}, "annotation 7 has unknown image 4"),
            (
                {"annotations": [annotation(7, 2, [1, 1, 2, 2], category_id=1)]},
                r"annotation 7 has unknown category 1 \(1 such.*run fix_coco_annotations.py",
            ),
            ({"annotations": [{"id": 7, "image_id": 2}]}, "annotation 7 has no category_id"),
            ({"annotations": [annotation(7, 2.5, [1, 1, 2, 2])]}, "the id 2.5 is not a whole"),
            (
                {"annotations": [annotation(7, 2**70, [1, 1, 2, 2])]},
                "the id 1180591620717411303424",
            ),
            ({"annotations": [annotation(7, 2, ["a"])]}, r"annotations\[0\].bbox\[0\]"),
        ],
    )
    def test_bad_entries_are_named(self, tmp_path, sections, message):
        path = write_json(tmp_path, **{"images": IMAGES, **sections})
        with pytest.raises(ValueError, match=message) as error:
            load_coco_index(path)
        assert str(path) in str(error.value)

    def test_ids_written_as_floats(self, tmp_path):
        images = [image_entry(2.0, "a.png")]
        annotations = [annotation(1, 2, [1, 1, 5, 5]), annotation(2.0, 2.0, [1, 1, 5, 5], 3.0)]
        index = load_coco_index(write_json(tmp_path, images=images, annotations=annotations))
        np.testing.assert_array_equal(index.labels, [1, 1])

    @pytest.mark.parametrize("split", ["train2017", "val2017"])
    def test_equals_pycocotools_on_real_annotations(self, shared, split):
        coco_tools = pytest.importorskip("pycocotools.coco")
        path = shared / "data" / "coco-mini" / "annotations" / f"instances_{split}.json"
        index, coco = load_coco_index(path), coco_tools.COCO(str(path))
        assert index.image_ids.tolist() == [entry["id"] for entry in coco.dataset["images"]]
        assert [c.category_id for c in index.categories] == sorted(coco.getCatIds())
        category_ids = np.array([0, *(c.category_id for c in index.categories)])
        for i, image_id in enumerate(index.image_ids.tolist()):
            expected = coco.imgToAnns[image_id]
            rows = slice(index.box_offsets[i], index.box_offsets[i + 1])
            assert index.file_name(i) == coco.imgs[image_id]["file_name"]
            assert index.boxes_xywh[rows].tolist() == [a["bbox"] for a in expected]
            assert index.areas[rows].tolist() == [a["area"] for a in expected]
            assert index.iscrowd[rows].tolist() == [bool(a["iscrowd"]) for a in expected]
            assert category_ids[index.labels[rows]].tolist() == [a["category_id"] for a in expected]


TEXT_IDS = {
    "numbers": ({9: "9", 2: "2", 5: "5"}, [9, 2, 5]),
    "names": ({9: "frame_9", 2: "frame_2", 5: "007"}, [1, 2, 3]),
    "some": ({9: "frame_9", 2: 2, 5: 5}, [6, 2, 5]),
}


class TestAcceptedVariants:
    """What other tools write in another way, or leave out, where the meaning is certain."""

    def same_boxes(self, index, other):
        for name in ("sizes", "box_offsets", "boxes_xywh", "labels", "areas", "iscrowd"):
            np.testing.assert_array_equal(getattr(index, name), getattr(other, name))

    @pytest.mark.parametrize("kind", TEXT_IDS)
    def test_ids_that_are_text(self, tmp_path, index, kind):
        text_of, numbers = TEXT_IDS[kind]
        images = [{**entry, "id": text_of[entry["id"]]} for entry in IMAGES]
        annotations = [
            {**entry, "image_id": text_of[entry["image_id"]], "id": f"uid-{entry['id']}"}
            for entry in ANNOTATIONS
        ]
        (tmp_path / "text").mkdir()
        text = load_coco_index(
            write_json(tmp_path / "text", images=images, annotations=annotations)
        )
        self.same_boxes(text, index)
        assert text.image_ids.tolist() == numbers
        count = sum(isinstance(number, str) for number in text_of.values())
        assert text.accepted["images whose id is text, taken as a number"] == count
        assert text.accepted["annotations with ids that are text, taken as numbers"] == 9

    def test_category_ids_that_are_text(self, tmp_path, index):
        content = json.loads(Path(index.annotation_file).read_text())
        for entry in content["categories"]:
            entry["id"] = str(entry["id"])
        for entry in content["annotations"]:
            entry["category_id"] = str(entry["category_id"])
        path = tmp_path / "text.json"
        path.write_text(json.dumps(content))
        text = load_coco_index(path)
        self.same_boxes(text, index)
        assert text.categories == index.categories
        assert text.accepted["categories whose id is text, taken as a number"] == 2

    def test_sizes_that_are_missing_come_from_the_images(self, image_folder, index):
        images = [dict(entry) for entry in IMAGES]
        del images[0]["width"]
        images[1]["height"] = None
        path = write_json(image_folder, images=images, annotations=ANNOTATIONS)
        read = load_coco_index(path, image_folder)
        self.same_boxes(read, index)
        assert read.accepted["images without width and height, read from their files"] == 2
        (image_folder / "a.png").unlink()
        with pytest.raises(ValueError, match=r"image 2 \(a\.png\) has no width .* no such file in"):
            load_coco_index(path, image_folder)

    def test_what_is_left_out_is_counted(self, index):
        """Of the annotations above, one has an area and two have iscrowd."""
        assert index.accepted == {
            "annotations without area, taken as width x height": 8,
            "annotations without iscrowd, taken as 0": 7,
        }


class TestCocoDetection:
    def test_items(self, index, image_folder):
        dataset = CocoDetection([(index, image_folder)], transform=keep)
        assert len(dataset) == 3
        image, target = dataset[1]
        stored = cv2.imread(str(image_folder / "a.png"))[..., ::-1]
        np.testing.assert_array_equal(image, stored)
        np.testing.assert_array_equal(target["boxes"], [[1, 2, 11, 22], [0, 45, 5.5, 50]])
        assert target["boxes"].dtype == np.float32
        np.testing.assert_array_equal(target["labels"], [2, 1])
        assert target["labels"].dtype == np.int64
        np.testing.assert_array_equal(target["iscrowd"], [False, False])
        assert (target["image_id"], target["index"], target["orig_size"]) == (2, 1, (50, 30))
        assert dataset[2][1]["iscrowd"].tolist() == [True]

    def test_an_image_without_objects(self, index, image_folder):
        _, target = CocoDetection([(index, image_folder)], transform=keep)[0]
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == target["iscrowd"].shape == (0,)

    def test_changing_an_item_leaves_the_index_alone(self, index, image_folder):
        dataset = CocoDetection([(index, image_folder)], transform=keep)
        dataset[1][1]["boxes"] += 100
        np.testing.assert_array_equal(dataset[1][1]["boxes"][0], [1, 2, 11, 22])

    def test_the_random_numbers_depend_on_seed_epoch_and_item_alone(self, index, image_folder):
        first = CocoDetection([(index, image_folder)], transform=keep, seed=4)
        again = CocoDetection([(index, image_folder)], transform=keep, seed=4)
        other = CocoDetection([(index, image_folder)], transform=keep, seed=5)
        items = [(0, 0), (0, 1), (1, 0), (1, 1)]
        draws = [first[item][1]["draw"] for item in items]
        assert [again[item][1]["draw"] for item in reversed(items)] == draws[::-1]
        assert first[1][1]["draw"] == first[0, 1][1]["draw"]
        assert len({*draws, *(other[item][1]["draw"] for item in items)}) == 8

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_give_the_same_items(self, index, image_folder, method):
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"no {method} here")
        dataset = CocoDetection([(index, image_folder)], transform=keep)
        options = {"batch_size": None, "num_workers": 2, "multiprocessing_context": method}
        items = [(3, 2), (3, 0), (3, 1)]
        loaded = list(DataLoader(dataset, sampler=items, **options))
        for item, (image, target) in zip(items, loaded, strict=True):
            np.testing.assert_array_equal(image, dataset[item][0])
            np.testing.assert_array_equal(target["boxes"], dataset[item][1]["boxes"])
            assert target["draw"] == dataset[item][1]["draw"]

    def test_two_sources_and_a_choice_of_images(self, index, image_folder):
        sources = [(index, image_folder), (index, image_folder)]
        assert len(CocoDetection(sources, transform=keep)) == 6
        dataset = CocoDetection(sources, transform=keep, image_indices=np.array([4, 2]))
        assert len(dataset) == 2
        assert [dataset[i][1]["image_id"] for i in range(2)] == [2, 5]
        assert [dataset[i][1]["index"] for i in range(2)] == [0, 1]
        with pytest.raises(IndexError):
            dataset[2]

    def test_sources_with_other_classes_are_refused(self, index, image_folder, tmp_path):
        dogs = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
        (tmp_path / "other").mkdir()
        other = load_coco_index(write_json(tmp_path / "other", images=IMAGES, categories=dogs))
        with pytest.raises(ValueError, match="label 2: 'dog' against 'cat'"):
            CocoDetection([(index, image_folder), (other, image_folder)], transform=keep)
        fewer = load_coco_index(write_json(tmp_path / "other", images=IMAGES, categories=dogs[:1]))
        with pytest.raises(ValueError, match="label 2: none against 'cat'"):
            CocoDetection([(index, image_folder), (fewer, image_folder)], transform=keep)

    def test_missing_files_are_found_at_construction(self, index, image_folder):
        for name in ("a.png", "sub/\u00fc.png"):
            (image_folder / name).unlink()
        with pytest.raises(
            ValueError, match=r"2 of the 3 images .* missing: a.png, sub/\u00fc.png;"
        ):
            CocoDetection([(index, image_folder)], transform=keep)
        with pytest.raises(ValueError, match="3 of the 3 images"):
            CocoDetection([(index, image_folder / "nowhere")], transform=keep)

    def test_a_file_of_another_size_is_named(self, index, image_folder):
        data = cv2.imencode(".png", np.zeros((7, 7, 3), np.uint8))[1]
        (image_folder / "a.png").write_bytes(data.tobytes())
        with pytest.raises(ValueError, match=r"a\.png"):
            CocoDetection([(index, image_folder)], transform=keep)[1]

    def test_a_plan_is_asked_for_before_the_image_is_decoded(self, tmp_path):
        pixels = np.full((400, 600, 3), 200, np.uint8)
        (tmp_path / "a.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        path = write_json(
            tmp_path,
            images=[image_entry(1, "a.jpg", 400, 600)],
            annotations=[annotation(1, 1, [60, 40, 120, 80])],
        )
        sources = [(load_coco_index(path), tmp_path)]
        image, target = CocoDetection(sources, transform=Quarter())[0]
        assert image.shape == (100, 150, 3)
        assert target["planned_for"] == target["orig_size"] == (400, 600)
        np.testing.assert_array_equal(target["boxes"], [[60, 40, 180, 120]])
