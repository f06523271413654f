"""Images kept decoded: the same pixels whoever decoded them, and nothing left behind."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cache_job import build_dataset
from PIL import Image
from script_runs import FAST, call
from yolo_factory import BOX, make_folder

from vision.datasets import image_cache
from vision.datasets.image_cache import build_image_cache
from vision.datasets.image_files import read_image
from vision.datasets.loader import DetectionLoader
from vision.datasets.sample import write_sample_dataset
from vision.files.available_memory import available_memory

pytest_plugins = ["resume_fixtures"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Images of 150 x 240 pixels: a working size of 72 x 96 for INPUT."""
    root = tmp_path_factory.mktemp("sample")
    write_sample_dataset(root, num_train=7, num_val=4, image_size=(150, 240))
    return root


def epochs(dataset, num_workers, *, num_epochs=2, start_method=None):
    """Everything that training sees of each epoch, to be compared."""
    before = multiprocessing.get_start_method()
    if start_method:
        multiprocessing.set_start_method(start_method, force=True)
    loader = DetectionLoader(dataset, batch_size=3, num_workers=num_workers, shuffle=True)
    try:
        result = []
        for epoch in range(num_epochs):
            loader.set_position(epoch)
            for images, targets in loader:
                result.append(images.clone())
                result += [tensor for t in targets for tensor in (t["boxes"], t["labels"])]
        return result
    finally:
        loader.close()
        multiprocessing.set_start_method(before, force=True)


def assert_same(a, b):
    assert len(a) == len(b) and all(map(torch.equal, a, b))


# ---- pixels and boxes


@pytest.fixture(scope="module")
def expected(sample):
    return epochs(build_dataset(sample, "ram"), 0)


@pytest.mark.parametrize(
    ("kind", "num_workers", "start_method"),
    [
        ("ram", 2, "fork"),
        ("ram", 1, "spawn"),
        ("disk", 0, None),
        ("disk", 2, "fork"),
        ("disk", 1, "forkserver"),
    ],
)
def test_batches_are_the_same_bits(sample, expected, kind, num_workers, start_method):
    dataset = build_dataset(sample, kind)
    assert_same(epochs(dataset, num_workers, start_method=start_method), expected)


def test_the_first_time_gives_the_bits_of_later_times(sample):
    dataset = build_dataset(sample, "ram")
    for i in range(len(dataset)):
        first, again = dataset[3, i], dataset[3, i]
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1]["boxes"], again[1]["boxes"])


@pytest.mark.parametrize(
    ("kind", "num_workers", "start_method"),
    [("ram", 0, None), ("ram", 2, "fork"), ("disk", 1, "spawn")],
)
def test_after_one_epoch_no_file_is_read(
    sample, expected, tmp_path, kind, num_workers, start_method
):
    """What the workers of one epoch have decoded serves others in the next."""
    shutil.copytree(sample, tmp_path / "copy")
    dataset = build_dataset(tmp_path / "copy", kind)
    epochs(dataset, num_workers, num_epochs=1, start_method=start_method)
    shutil.rmtree(tmp_path / "copy/train2017")
    assert_same(epochs(dataset, num_workers, start_method=start_method), expected)


def test_small_images_are_kept_as_they_are(sample):
    """150 x 240 is less than 1.5 times 200 x 300, so the cache changes no bit."""
    plain = build_dataset(sample, input_size=(200, 300), preset="flip")
    cached = build_dataset(sample, "ram", input_size=(200, 300), preset="flip")
    assert_same(epochs(cached, 0), epochs(plain, 0))


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photos_are_kept_upright_at_their_working_size(tmp_path, orientation):
    """At 150 x 300 of 600 x 800, for which a JPEG is decoded at half its size."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(1, 256, (48, 64, 3), np.uint8), (800, 600))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    size, input_size = ((800, 600), (200, 100)) if orientation == 6 else ((600, 800), (100, 200))
    sizes = np.array([size, size])
    cache = build_image_cache("ram", sizes, input_size=input_size, folder=tmp_path)
    whole = read_image(tmp_path / "photo.jpg")
    height, width = (300, 150) if orientation == 6 else (150, 300)
    shrunk = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    for i in (0, 1):
        kept = cache.read(i, tmp_path / "photo.jpg")
        assert kept.shape == (height, width, 3) and kept.dtype == np.uint8
        assert np.abs(kept.astype(int) - shrunk).mean() < 1.5


def test_a_file_that_cannot_be_read_is_named_each_time(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "copy")
    dataset = build_dataset(tmp_path / "copy", "ram")
    path = sorted((tmp_path / "copy/train2017").iterdir())[0]
    path.write_bytes(path.read_bytes()[:300])
    for _ in range(2):
        with pytest.raises(ValueError, match=path.name):
            dataset[0]


def test_boxes_are_the_uncached_ones_up_to_rounding(tmp_path):
    """A view's edges are rounded to working pixels: at 300 of at least 135, 1.1 output pixels."""
    write_sample_dataset(tmp_path, num_train=12, num_val=1, image_size=(600, 800))
    plain = build_dataset(tmp_path, input_size=(300, 300))
    cached = build_dataset(tmp_path, "ram", input_size=(300, 300))
    num_same = num_items = 0
    for epoch in range(20):
        for i in range(len(plain)):
            (_, a), (_, b) = plain[epoch, i], cached[epoch, i]
            num_items += 1
            if a["labels"].tolist() == b["labels"].tolist():
                num_same += 1
                np.testing.assert_allclose(a["boxes"], b["boxes"], atol=2.5)
    assert num_same >= 0.98 * num_items  # a box at the edge may go in one and stay in the other


# ---- room


def test_a_cache_that_fits_in_no_memory_is_refused(tmp_path):
    sizes = np.full((100_000, 2), 20_000)
    with pytest.raises(ValueError) as error:
        build_image_cache("ram", sizes, input_size=(20_000, 20_000), folder=tmp_path)
    line = str(error.value)
    assert "--cache ram needs 120000.0 GB, and " in line and "use --cache disk" in line
    assert "\n" not in line and line.count(" GB") == 2


def test_a_cache_that_fits_on_no_disk_is_refused(tmp_path):
    sizes = np.full((100_000, 2), 20_000)
    with pytest.raises(ValueError) as error:
        build_image_cache("disk", sizes, input_size=(20_000, 20_000), folder=tmp_path / "new/run")
    line = str(error.value)
    assert "--cache disk needs 120000.0 GB, and " in line and f"free in {tmp_path}:" in line
    assert "\n" not in line and "--cache none" in line


def test_each_process_of_a_machine_counts(tmp_path, monkeypatch, caplog):
    """3,000,001 bytes fit into 4 MB once, not twice."""
    monkeypatch.setattr(image_cache, "available_memory", lambda: 4_000_000)
    sizes = np.array([[1000, 1000]])
    caplog.set_level("INFO")
    build_image_cache("ram", sizes, input_size=(1000, 1000), folder=tmp_path)
    assert caplog.messages == ["image cache: 1 images, 3 MB in shared memory"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"needs 6 MB, and 4 MB of memory are available"):
        build_image_cache("ram", sizes, input_size=(1000, 1000), folder=tmp_path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(text))


def test_available_memory_is_the_least_of_machine_and_cgroups(tmp_path):
    assert available_memory(tmp_path) is None
    write(tmp_path / "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available_memory(tmp_path) == 8000 * 1024
    write(tmp_path / "proc/self/cgroup", "1:cpu:/x\n0::/job/step\n")
    groups = tmp_path / "sys/fs/cgroup"
    for name, limit, usage in (("job/step", "max", 10), ("job", 5_000_000, 3_000_000)):
        write(groups / name / "memory.max", limit)
        write(groups / name / "memory.current", usage)
        write(groups / name / "memory.stat", "anon 7\ninactive_file 1000000\n")
    assert available_memory(tmp_path) == 5_000_000 - 3_000_000 + 1_000_000
    # In a container the path is the host's, and the limit is at the top.
    write(tmp_path / "proc/self/cgroup", "0::/docker/0123\n")
    write(groups / "memory.max", 600_000)
    write(groups / "memory.current", 500_000)
    write(groups / "memory.stat", "inactive_file 50000\n")
    assert available_memory(tmp_path) == 150_000


# ---- what is left behind


def open_files(name):
    """Descriptors and mappings of any process whose file has `name` in its path."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
            links += (process / "maps").read_text().splitlines()
        except OSError:
            continue  # it ended, or is another user's
        found += [link for link in links if name in link]
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("kind", "end"),
    [("ram", "exit"), ("ram", "SIGKILL"), ("disk", "SIGKILL"), ("disk", "SIGKILL to all")],
)
def test_nothing_is_left_behind(sample, tmp_path, trainer, kind, end):
    before = set(open_files("image cache"))
    folder, ready = tmp_path / "cache", tmp_path / "ready"
    folder.mkdir()

    def in_use():
        name = "image cache" if kind == "ram" else str(folder)
        return set(open_files(name)) - before

    pid = trainer.start(sample, kind, folder, ready, script="cache_job")
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert in_use() and os.listdir(folder) == []  # it has no name even now
    if end == "SIGKILL to all":
        os.killpg(pid, signal.SIGKILL)
    elif end == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    ready.unlink()
    assert trainer.wait(pid).returncode == (0 if end == "exit" else -signal.SIGKILL)
    deadline = time.monotonic() + 30  # workers see within seconds that their parent is gone
    while in_use() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not in_use() and os.listdir(folder) == []


# ---- the flag


def test_training_from_memory_and_disk_is_the_same_run(sample, tmp_path):
    """ram to the end; disk; ram, then disk from the first epoch on."""
    flags = ["--datasets", sample, *FAST, "--epochs=2"]
    logs = {}
    for kind in ("ram", "disk"):
        result = call(
            "train_ssd", *flags, f"--cache={kind}", "--checkpoint-folder", tmp_path / kind
        )
        assert (result.code, result.errors) == (0, [])
        logs[kind] = result.err
    assert "image cache: 7 images, 0.435 MB in shared memory" in logs["ram"]
    assert f"image cache: 7 images, 0.435 MB in a file in {tmp_path}" in logs["disk"]
    shutil.copytree(tmp_path / "ram", tmp_path / "both")
    result = call(
        "train_ssd", "--resume", tmp_path / "both/checkpoint_epoch_0001.pt", "--cache=disk"
    )
    assert (result.code, result.errors) == (0, [])
    weights = [
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"]
        for name in ("ram", "disk", "both")
    ]
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in weights[0].items())
    result = call("train_ssd", "--resume", tmp_path / "both", "--cache=none", "--epochs=3")
    assert result.code == 1 and "--cache was disk in this run and is none now" in result.err


def test_too_little_memory_is_one_line_and_makes_no_run(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 500_000)
    run = tmp_path / "run"
    result = call(
        "train_ssd", "--datasets", sample, *FAST, "--cache=ram", "--checkpoint-folder", run
    )
    assert result.code == 1 and len(result.errors) == 1 and not run.exists()
    assert result.errors[0].startswith("error: --cache ram needs 0.435 MB, and 0.5 MB of memory")


def test_the_finetune_recipe_takes_it_too(tmp_path):
    root = make_folder(tmp_path / "data", {f"{i}.jpg": BOX for i in range(4)}, split="train")
    make_folder(root, {"4.jpg": BOX})
    flags = [*FAST, "--data-root", root, "--output-dir", tmp_path / "run", "--cache=ram"]
    result = call("train_mobilenetv2_ssd", *flags)
    assert (result.code, result.errors) == (0, [])
    assert "image cache: 4 images, 0.06 MB in shared memory" in result.err
