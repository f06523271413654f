"""The order of training, and that workers change nothing about it."""

import multiprocessing
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from vision.datasets.coco import CocoDetection
from vision.datasets.coco_index import load_coco_index
from vision.datasets.loader import DetectionLoader, EpochBatchSampler
from vision.datasets.sample import write_sample_dataset
from vision.engine.machine_limits import explain
from vision.transforms.presets import build_eval_transform, build_train_transform

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    write_sample_dataset(root, num_train=7, num_val=4, image_size=(60, 80))
    return root


def build_dataset(root, *, preset="ssd", seed=0):
    index = load_coco_index(root / "annotations/instances_train2017.json")
    transform = build_train_transform(preset, image_size=(48, 64), mean=(127, 127, 127))
    return CocoDetection([(index, root / "train2017")], transform=transform, seed=seed)


def sampler(num_images, batch_size, *, seed=0, shuffle=True):
    return EpochBatchSampler(num_images, batch_size=batch_size, seed=seed, shuffle=shuffle)


def indices(batches):
    return [[index for _, index in batch] for batch in batches]


def order(batches):
    return [index for batch in batches for _, index in batch]


# ---- order


def test_each_epoch_has_every_image_once_in_an_order_of_its_own():
    batches = sampler(10, 4)
    orders = []
    for epoch in range(3):
        batches.epoch = epoch
        epochs, order = zip(*[pair for batch in batches for pair in batch], strict=True)
        assert set(epochs) == {epoch} and sorted(order) == list(range(10))
        orders.append(order)
    assert len(set(orders)) == 3


def test_the_order_is_a_function_of_seed_and_epoch():
    one, other, third = sampler(50, 8, seed=3), sampler(50, 8, seed=3), sampler(50, 8, seed=4)
    list(one)  # going through an epoch leaves no trace
    np.random.seed(9)
    torch.manual_seed(9)
    one.epoch = other.epoch = third.epoch = 5
    assert list(one) == list(other) == list(one)
    assert list(one) != list(third)


def test_the_size_of_batches_leaves_the_order_alone():
    small, large = sampler(12, 3), sampler(12, 6)
    assert order(small) == order(large)


def test_evaluation_goes_through_the_images_in_order():
    assert indices(sampler(5, 2, shuffle=False)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (5, 4, [5]),
        (4, 4, [4]),
        (3, 4, [3]),
        (2, 4, [2]),
        (7, 2, [2, 2, 3]),
    ],
)
def test_a_last_batch_of_one_joins_the_batch_before(num_images, batch_size, sizes):
    batches = sampler(num_images, batch_size)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == batches.num_batches == len(sizes)
    assert sorted(order(batches)) == list(range(num_images))


@pytest.mark.parametrize("num_images", [9, 10])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_continued_epoch_has_the_rest_of_its_batches(num_images, start):
    whole, rest = sampler(num_images, 4), sampler(num_images, 4)
    whole.epoch = rest.epoch = 2
    rest.start_batch = start
    expected = list(whole)[start:]
    assert list(rest) == expected
    assert len(rest) == max(0, whole.num_batches - start)
    assert rest.num_batches == whole.num_batches


# ---- batches


def contents(loader):
    """Everything that training sees, to be compared."""
    return [
        (
            images.numpy().tobytes(),
            [
                (t["image_id"], t["index"], t["boxes"].tolist(), t["labels"].tolist())
                for t in targets
            ],
        )
        for images, targets in loader
    ]


@pytest.fixture
def build_loader():
    """Build loaders of a data set, or of a folder, whose workers end with the test."""
    loaders = []

    def build(source, num_workers):
        dataset = build_dataset(source) if isinstance(source, Path) else source
        loader = DetectionLoader(dataset, batch_size=3, num_workers=num_workers, shuffle=True)
        loaders.append(loader)
        return loader

    yield build
    for loader in loaders:
        loader.close()


def test_a_batch(sample, build_loader):
    loader = build_loader(sample, 0)
    batches = list(loader)
    assert [len(targets) for _, targets in batches] == [3, 4]  # 7 images: the last one joins
    images, _ = batches[0]
    assert images.shape == (3, 3, 48, 64) and images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    for target in chain.from_iterable(targets for _, targets in batches):
        num_boxes = len(target["labels"])
        assert target["boxes"].shape == (num_boxes, 4)
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
        assert target["iscrowd"].shape == (num_boxes,) and target["iscrowd"].dtype == torch.bool
        assert target["orig_size"] == (60, 80) and isinstance(target["image_id"], int)


def test_images_and_boxes_are_those_of_the_data_set(sample):
    index = load_coco_index(sample / "annotations/instances_train2017.json")
    dataset = CocoDetection(
        [(index, sample / "train2017")], transform=build_eval_transform((60, 80))
    )
    loader = DetectionLoader(dataset, batch_size=4, num_workers=0, shuffle=False)
    seen = 0
    for images, targets in loader:
        for image, target in zip(images, targets, strict=True):
            pixels, expected = dataset[seen]
            assert target["index"] == seen
            assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(pixels))
            assert target["boxes"].tolist() == expected["boxes"].tolist()
            seen += 1
    assert seen == 7


@pytest.fixture(scope="module")
def expected(sample):
    """Epochs 0 and 1 and the second half of epoch 4, without workers."""
    dataset = build_dataset(sample)
    return go_through(DetectionLoader(dataset, batch_size=3, num_workers=0, shuffle=True))


def go_through(loader):
    result = []
    for epoch, start in ((0, 0), (1, 0), (4, 1)):
        loader.set_position(epoch, start)
        assert len(loader) == 2 - start
        result.append(contents(loader))
    return result


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_neither_samples_nor_augmentation(
    sample, expected, build_loader, num_workers
):
    assert go_through(build_loader(sample, num_workers)) == expected


def test_spawned_workers_change_nothing_either(sample, expected, build_loader):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert go_through(build_loader(sample, 1)) == expected
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_epochs_and_seeds_differ_in_augmentation_too(sample):
    dataset, other = build_dataset(sample), build_dataset(sample, seed=1)
    images = [dataset[0, 2][0], dataset[1, 2][0], other[0, 2][0], dataset[0, 2][0]]
    assert np.array_equal(images[0], images[3])
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_that_are_kept_stay_as_they_are(sample, build_loader, num_workers):
    """The loader reuses the memory of batches, but of none that is held, by a part of it or all."""
    loader = build_loader(sample, num_workers)
    kept, copies = [], []
    for epoch in range(6):
        loader.set_position(epoch)
        for images, _ in loader:
            kept.append(images if epoch % 2 else images[1])
            copies.append(kept[-1].clone())
            del images
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_memory_of_batches_is_used_again(sample, build_loader):
    loader = build_loader(sample, 0)
    places = set()
    for epoch in range(6):
        loader.set_position(epoch)
        places |= {images.data_ptr() for images, _ in loader}
    assert len(places) <= 3


# ---- what goes wrong in a worker


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("fault", ["truncated", "removed", "another size"])
def test_an_error_in_a_worker_is_one_line_that_names_the_file(
    tmp_path, build_loader, fault, num_workers
):
    write_sample_dataset(tmp_path, num_train=4, num_val=1, image_size=(60, 80))
    loader = build_loader(tmp_path, num_workers)
    path = sorted((tmp_path / "train2017").iterdir())[2]
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif fault == "removed":
        path.unlink()
    else:
        other = tmp_path / "other"
        write_sample_dataset(other, num_train=4, num_val=1, image_size=(48, 64))
        path.write_bytes(sorted((other / "train2017").iterdir())[0].read_bytes())
    with pytest.raises(ValueError, match=path.name) as error:
        list(loader)
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and str(path) in text


class Killed:
    """A data set whose worker is killed, as by the system when memory is short."""

    def __len__(self):
        return 4

    def __getitem__(self, item):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_has_a_remedy(build_loader):
    with pytest.raises(RuntimeError) as error:
        list(build_loader(Killed(), 1))
    line = explain(error.value)
    assert "use fewer --workers" in line and "\n" not in line


class Broken(Killed):
    def __getitem__(self, item):
        raise KeyError("boxes")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_in_the_program_keeps_its_traceback(build_loader, num_workers):
    with pytest.raises(KeyError):
        list(build_loader(Broken(), num_workers))


def test_a_process_that_fails_with_workers_ends():
    """Workers ignore SIGTERM, so that a process group can be asked to stop and save."""
    program = """
import numpy as np
from vision.datasets.loader import DetectionLoader

class Images:
    def __len__(self):
        return 8
    def __getitem__(self, item):
        return np.zeros((4, 4, 3), np.uint8), {}

def main():
    loader = DetectionLoader(Images(), batch_size=2, num_workers=1, shuffle=False)
    for _ in loader:
        raise KeyError("a mistake")

main()
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=40)
    assert result.returncode == 1 and "KeyError: 'a mistake'" in result.stderr


def test_close_ends_the_workers(sample, build_loader):
    loader = build_loader(sample, 2)
    before = set(multiprocessing.active_children())
    next(iter(loader))
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()
    assert set(multiprocessing.active_children()) == before
    loader.close()
