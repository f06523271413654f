"""Several processes train and evaluate as one, and survive the end of one of them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from distributed_job import run_job
from resume_runs import RECIPE, differences, read_metrics
from script_runs import call
from trainer_host import At, Finished, TrainerHost, free_port

from vision.datasets.batch_sampler import EpochBatchSampler
from vision.datasets.sample import write_sample_dataset
from vision.engine.distributed import explain_lost
from vision.runs.checkpoint import read_checkpoint

pytest_plugins = ["resume_fixtures"]
TRAIN = ROOT / "train_ssd.py"
TRAIN_STEP = "vision.engine.train.train_step"
NUM_TRAIN = 18
FLAGS = [flag for flag in RECIPE if "batch-size" not in flag] + ["--batch-size=6"]


def torchrun(*arguments, options: tuple) -> subprocess.Popen:
    """Start train_ssd.py with torchrun, in a session that `finish` ends whole."""
    launcher = ["-m", "torch.distributed.run", f"--master_port={free_port()}", *options]
    return subprocess.Popen(
        [sys.executable, *launcher, str(TRAIN), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_two(trainer: TrainerHost, *argv, **options) -> list[Finished]:
    """Run train_ssd.py in two processes to a good end."""
    processes = trainer.run_processes(*argv, count=2, **options)
    assert [process.returncode for process in processes] == [0, 0], processes
    return processes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three batches of training images, and three of validation images."""
    root = tmp_path_factory.mktemp("data")
    write_sample_dataset(root, num_train=NUM_TRAIN, num_val=7, image_size=(120, 160))
    return root


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("num_images", [23, 24, 25, 26, 27])
def test_parts_of_a_batch_are_the_batch_of_one_process(world_size, num_images):
    def batches(rank, world_size):
        sampler = EpochBatchSampler(
            num_images, batch_size=8, seed=3, shuffle=True, rank=rank, world_size=world_size
        )
        sampler.epoch, sampler.start_batch = 5, 1
        listed = list(sampler)
        assert len(listed) == len(sampler) == sampler.num_rounds
        return [
            [] if sampler.is_padding(1 + i) else batch for i, batch in enumerate(listed)
        ], listed

    whole, _ = batches(0, 1)
    parts, passed_through = zip(*(batches(r, world_size) for r in range(world_size)), strict=True)
    for number, batch in enumerate(whole):
        assert [item for part in parts for item in part[number]] == batch
        assert all(len(everything[number]) >= 2 for everything in passed_through)


@pytest.mark.parametrize("world_size", [2, 3])
def test_validation_batches_go_round_the_processes(world_size):
    def batches(rank, world_size):
        sampler = EpochBatchSampler(
            10, batch_size=3, shuffle=False, rank=rank, world_size=world_size
        )
        assert len(list(sampler)) == len(sampler) <= sampler.num_rounds
        return list(sampler)

    shares = [batches(rank, world_size) for rank in range(world_size)]
    assert sorted(batch for share in shares for batch in share) == batches(0, 1)


@pytest.fixture
def job(data, trainer, tmp_path):
    """Run distributed_job.py in several processes; return what they make of it."""

    def run(num_images: int, *, nproc: int) -> dict:
        output = tmp_path / "result.pt"
        script = {"script": "distributed_job", "count": nproc}
        processes = trainer.run_processes(data, num_images, output, **script)
        assert [process.returncode for process in processes] == [0] * nproc, processes
        return torch.load(output)

    return run


@pytest.fixture(scope="module")
def alone(data) -> dict:
    """What one process makes of the job."""
    return run_job(data, NUM_TRAIN)


def test_processes_compute_what_one_does(alone, job):
    """Three of them; two are in the next test."""
    result = job(NUM_TRAIN, nproc=3)
    assert len(result["steps"]) == len(alone["steps"]) == 3
    for step, values in enumerate(alone["steps"]):
        assert result["steps"][step] == pytest.approx(values, rel=1e-3), step
    for name, tensor in alone["model"].items():
        torch.testing.assert_close(result["model"][name], tensor, rtol=1e-3, atol=1e-5)
    assert len(alone["before"]) > 50
    assert result["before"] == alone["before"]  # the same weights give the same bits
    assert result["after"] == pytest.approx(alone["after"], rel=1e-3)


def test_a_process_without_a_part_of_the_last_batch_changes_nothing(data, job):
    one, two = run_job(data, NUM_TRAIN - 4), job(NUM_TRAIN - 4, nproc=2)
    assert len(one["steps"]) == len(two["steps"]) == 3
    for step, values in enumerate(one["steps"]):
        # BatchNorm over two values has a gradient of no precision: the loss is what can be compared
        assert two["steps"][step]["loss"] == pytest.approx(values["loss"], rel=1e-5), step


@pytest.fixture(scope="module")
def pair(data, trainer, tmp_path_factory) -> Path:
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    first, second = run_two(trainer, "--datasets", data, *FLAGS, "--checkpoint-folder", folder)
    assert len(read_metrics(folder)) == 2
    assert "2 epochs done" in first.stdout and "epoch 2/2" in first.stderr
    assert second.stdout == "" and "epoch" not in second.stderr  # only the first one speaks
    return folder


def test_another_number_of_processes_goes_on_with_a_run(pair, trainer, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pair, folder)
    for epochs, before, nproc in ((3, 2, 1), (4, 1, 3)):
        argv = ("--resume", folder, f"--epochs={epochs}")
        processes = trainer.run_processes(*argv, count=nproc)
        assert [process.returncode for process in processes] == [0] * nproc, processes
        assert f"machine.processes: {before} in this run" in processes[0].stderr
    assert [record["step"] for record in read_metrics(folder)] == [3, 6, 9, 12]


def test_eval_ssd_gives_the_same_files(pair, data, trainer, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ("--trained-model", pair, "--dataset", data, "--batch-size=2", "--workers=0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert call("eval_ssd", *flags, "--output-dir", one).code == 0
    torch.set_num_threads(threads)
    processes = trainer.run_processes(*flags, "--output-dir", two, count=2, script="eval_ssd")
    assert [process.returncode for process in processes] == [0, 0], processes
    for name in ("metrics.json", "detections.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize(("flag", "word"), [("--dataset", "val: "), ("--trained-model", "weights")])
def test_eval_ssd_names_a_process_with_other_files(pair, data, trainer, tmp_path, flag, word):
    """The flag given twice counts as the second says."""
    if flag == "--dataset":
        other = shutil.copytree(data, tmp_path / "other")
        path = other / "annotations/instances_val2017.json"
        content = json.loads(path.read_text())
        edit_boxes(content)
        path.write_text(json.dumps(content))
    else:
        other = sorted(pair.glob("checkpoint_epoch_*.pt"))[0]
    argv = ("--trained-model", pair, "--dataset", data, "--batch-size=2", "--workers=0")
    first, second = trainer.run_processes(
        *argv, count=2, script="eval_ssd", of_second=(flag, other)
    )
    assert (first.returncode, second.returncode) == (1, 1)
    (line,) = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
    assert f"process 1 has read other data than process 0, {word}" in line
    assert first.stdout == second.stdout == second.stderr == ""


def start_saving_each_step(data: Path, folder: Path, options: tuple = ()) -> subprocess.Popen:
    """Start the recipe in two processes, and return once the first step is done."""
    flags = ("--datasets", data, *FLAGS, "--checkpoint-every-steps=1")
    options = ("--nproc_per_node=2", *options)
    process = torchrun(*flags, "--checkpoint-folder", folder, options=options)
    wait_for(lambda: list(folder.glob("checkpoint_*.pt")), process)
    return process


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait until something is so while a process runs."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, finish(process)
        time.sleep(0.01)


def workers_of(agent: int) -> list[int]:
    """The training processes that a torchrun has started, by rank."""
    ranks = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == agent:
                environment = (path / "environ").read_bytes().split(b"\0")
                # None: between fork and exec, or ended and not yet waited for.
                rank = next((int(x[5:]) for x in environment if x.startswith(b"RANK=")), None)
                if rank is not None:
                    ranks[rank] = int(path.name)
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")
def test_torchrun_goes_on_after_the_one_and_then_the_other_process_was_killed(pair, data, tmp_path):
    folder = tmp_path / "run"
    process = start_saving_each_step(data, folder, options=("--max-restarts=2",))
    killed = workers_of(process.pid)
    os.kill(killed[0], signal.SIGKILL)
    wait_for(lambda: len(set(workers_of(process.pid)) - set(killed)) == 2, process)
    saved = set(folder.glob("checkpoint_*.pt"))
    wait_for(lambda: set(folder.glob("checkpoint_*.pt")) - saved, process)
    os.kill(workers_of(process.pid)[1], signal.SIGKILL)
    done = finish(process)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resuming checkpoint_") == 2
    assert differences(folder, pair) == []


def test_the_end_of_a_process_ends_the_others_with_a_line(data, trainer, tmp_path):
    folder = tmp_path / "run"
    argv = ("--datasets", data, *FLAGS, "--checkpoint-folder", folder)
    killed = At(TRAIN_STEP, 2)
    first, second = trainer.run_processes(*argv, count=2, plan_of_second=killed)
    assert (first.returncode, second.returncode) == (1, -signal.SIGKILL)
    assert "process 0: another process of this job has ended" in first.stderr
    assert f"train_ssd.py --resume {folder}" in first.stdout
    assert list(folder.glob("checkpoint_epoch_*.pt"))


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] "
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:94, "
LOST = {
    "gloo, reset": RuntimeError(GLOO + "Read error [127.0.0.1]:17552: Connection reset by peer."),
    "gloo, closed": RuntimeError(GLOO + "Connection closed by peer [127.0.0.1]:24803."),
    "gloo, timeout": RuntimeError(GLOO + "Timed out waiting 1800000ms for recv operation"),
    "store": dist.DistStoreError("wait timeout after 2000ms, keys: /0//cpu//0/1"),
    "store, gone": dist.DistNetworkError("Broken pipe"),
    "no store": dist.DistNetworkError(
        "The client socket has timed out after 2000ms while trying to connect to (127.0.0.1, 299)."
    ),
    "NCCL": dist.DistBackendError(
        NCCL + "remote process exited or there was a network error\nncclRemoteError: A call failed "
        "possibly due to a network error or a remote process exiting prematurely."
    ),
    "NCCL, closed": dist.DistBackendError(
        NCCL
        + "unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or external "
        "library call failed or device error.\nsocketProgress: Connection closed by remote peer"
    ),
}
OTHERS = {
    "NCCL, memory": dist.DistBackendError(
        NCCL + "unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nCuda failure 2 'out of memory'"
    ),
    "NCCL, usage": dist.DistBackendError(
        NCCL + "invalid usage\nncclInvalidUsage: This usually reflects invalid usage of NCCL "
        "library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on device 1b000"
    ),
    "gloo, sizes": RuntimeError(GLOO + "op.preamble.length <= op.nbytes. 8 vs 4"),
    "port": dist.DistNetworkError(
        "The server socket has failed to listen on any local network address. port: 29500, "
        "useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
    ),
    "layer": RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
}


@pytest.mark.parametrize("name", [*LOST, *OTHERS])
def test_only_the_end_of_another_process_is_called_so(name, monkeypatch):
    """Texts of torch 2.14; NCCL's are put together from the strings in its library."""
    error = (LOST | OTHERS)[name]
    assert explain_lost(error) is None  # one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    line = "process 1: another process of this job has ended; its message says why"
    assert explain_lost(error) == (line if name in LOST else None)


def test_a_signal_to_one_process_stops_all_at_the_same_step(pair, data, trainer, tmp_path):
    folder = tmp_path / "run"
    argv = ("--datasets", data, *FLAGS, "--checkpoint-folder", folder)
    asked = At(TRAIN_STEP, 2, what="SIGTERM")
    processes = trainer.run_processes(*argv, count=2, plan_of_second=asked)
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2
    assert "stopped by SIGTERM after step 2," in processes[0].stdout
    state = read_checkpoint(next(folder.glob("checkpoint_epoch_*_step_*.pt")))
    assert state["step"] == 2
    run_two(trainer, "--resume", folder)
    assert differences(folder, pair) == []


def test_all_processes_choose_the_same_epochs_and_stop_at_the_same_step(data, trainer, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    flags = [flag for flag in FLAGS if "epochs=2" not in flag]
    argv = ("--datasets", data, *flags, "--augmentation=ssd", "--checkpoint-folder")
    by_one_step = {"vision.training.length.PROBE_SECONDS": 0.0}
    first, second = run_two(trainer, *argv, run, "--max-hours=1e-6", settings=by_one_step)
    assert "--epochs 1, as many as --max-hours 1e-06 has time for: 3 steps" in first.stderr
    assert "stopped by --max-hours after step 1, " in first.stdout
    assert second.stdout == "" and "--epochs" not in second.stderr
    run_two(trainer, "--resume", run, "--max-hours=0")
    run_two(trainer, *argv, other, "--epochs=1")
    assert differences(run, other) == []


def test_two_machines_meet_and_train_as_one(pair, data, tmp_path):
    folder, port = tmp_path / "run", free_port()
    options = (
        *(
            "--nnodes=2",
            "--nproc_per_node=1",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{port}",
        ),
        *("--rdzv-id=two", "--local-addr=127.0.0.1"),
    )
    flags = ("--datasets", data, *FLAGS, "--checkpoint-folder", folder)
    machines = [torchrun(*flags, options=options) for _ in range(2)]
    for done in [finish(machine) for machine in machines]:
        assert done.returncode == 0, done.stderr
    assert differences(folder, pair) == []


def test_what_is_wrong_is_said_once(pair, data, trainer):
    argv = ("--datasets", data, *FLAGS, "--checkpoint-folder", pair)
    first, second = trainer.run_processes(*argv, count=2)
    assert (first.returncode, second.returncode) == (1, 1)
    (line,) = first.stderr.splitlines()
    assert line.startswith("error: ") and "there is a run already" in line
    assert (first.stdout, second.stdout, second.stderr) == ("", "", "")


def edit_boxes(content):
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 20, 20]


def edit_images(content):
    content["images"] = content["images"][:-1]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]


def edit_classes(content):
    content["categories"][0]["name"] = "cat"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (None, ""),
        (edit_boxes, "train: 18 images"),
        (edit_images, "train: 17 images"),
        (edit_classes, "classes: "),
    ],
    ids=["same", "boxes", "images", "classes"],
)
def test_processes_with_other_data_are_named(data, trainer, tmp_path, edit, words):
    """Machines with disks of their own may have other files under the same path."""
    shutil.copytree(data, tmp_path / "other")
    for split in ("train", "val"):
        path = tmp_path / f"other/annotations/instances_{split}2017.json"
        content = json.loads(path.read_text())
        if edit:
            edit(content)
        path.write_text(json.dumps(content))
    folders = (data, tmp_path / "other")
    first, second = trainer.run_processes(*folders, script="compare_job", count=2)
    assert second.stdout == "" and first.stdout.count("\n") == (1 if edit else 0), first.stderr
    assert words in first.stdout
    assert ("process 1 has read other data" in first.stdout) == bool(edit)


def test_processes_with_other_flags_are_named(data, trainer, tmp_path):
    flags = ("--datasets", data, *FLAGS, "--checkpoint-folder", tmp_path / "run")
    first, second = trainer.run_processes(*flags, count=2, of_second=("--seed=7",))
    assert (first.returncode, second.returncode) == (1, 1)
    (line,) = first.stderr.splitlines()
    assert "process 1 was given --seed 7, process 0 " in line and second.stderr == ""
    assert not (tmp_path / "run").exists()
