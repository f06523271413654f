"""Training in several processes: ranks, process group, collective operations.

`torchrun` starts the processes and gives each its rank in environment variables. Without it there
is one process, and every function here works without communication. All processes of a job must
make the same calls in the same order.
"""

import contextlib
import functools
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

P, T = ParamSpec("P"), TypeVar("T")
# What gloo, NCCL and torch's store write when the process at the other end of a connection is gone.
# NCCL's other errors (out of memory, invalid usage, ...) are not among them.
_PEER_LOST = re.compile(
    r"closed by (remote )?peer|reset by peer|broken pipe|socket closed|connection refused"
    r"|connection was likely closed|connect timeout|while trying to connect|failed to connect"
    r"|timed out waiting|timeout caused pair closure|collective operation timeout|ncclRemoteError",
    re.IGNORECASE,
)


class MainProcessStopped(SystemExit):
    """The main process has failed and has printed the reason; exit code 1."""

    def __init__(self) -> None:
        super().__init__(1)


def rank() -> int:
    """The number of this process in the job, from 0; rank 0 is the main process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes in the job, over all machines."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Tell whether this is rank 0, the process that writes files and prints."""
    return rank() == 0


def local_world_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end of the `with` block.

    Without torchrun it does nothing. All processes but the main one log errors only.

    Raises:
        RuntimeError: the other processes did not connect.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    store, own_rank, num_processes = next(dist.rendezvous("env://"))
    # A prefix for each restart: torchrun may keep its store through a restart (torch 2.14, one
    # machine), and the store still holds the addresses of the processes that have ended.
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=num_processes)
    if not is_main_process():
        logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        dist.destroy_process_group()


def job_id() -> str | None:
    """Return an id of this torchrun, the same after its restarts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none":  # no --rdzv-id was given: the parent process is this machine's torchrun
        return f"{socket.gethostname()} {os.getppid()}"
    return name


def on_main_process(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function: the main process calls it, and all processes get its result.

    Raises:
        MainProcessStopped: in the other processes, when the function raised in the main one.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in the main process, and send its result or its failure to all."""
        if world_size() == 1:
            return function(*args, **kwargs)
        try:
            answer = [(True, function(*args, **kwargs) if is_main_process() else None)]
        except Exception:
            dist.broadcast_object_list([(False, None)], src=0)
            raise
        dist.broadcast_object_list(answer, src=0)
        has_worked, result = answer[0]
        if not has_worked:
            raise MainProcessStopped
        return result

    return wrapper


def gather(part: T) -> list[T]:
    """Return every process's `part`, by rank, in the main process; an empty list in the others."""
    if world_size() == 1:
        return [part]
    parts = [None] * world_size() if is_main_process() else None
    dist.gather_object(part, parts, dst=0)
    return parts or []


def all_reduce_max(value: int) -> int:
    """Return the largest value over all processes."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Add the tensors of all processes, in place; every process gets the same bits."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def broadcast_buffers(model: nn.Module) -> None:
    """Copy the model's buffers from the main process to all others."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def explain_lost(error: RuntimeError) -> str | None:
    """Say in one line that another process of the job has ended; None for any other error.

    torch has no exception type for it: gloo raises a bare RuntimeError, NCCL a DistBackendError for
    every kind of failure. So the text decides, except for DistStoreError: the store is used only to
    wait for the other processes.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    if isinstance(error, dist.DistStoreError) or _PEER_LOST.search(str(error)):
        own = os.environ["RANK"]
        return f"process {own}: another process of this job has ended; its message says why"
    return None


def set_threads(number: int = 0) -> None:
    """Set the number of CPU threads; 0: torch's choice, or this process's share under torchrun.

    torchrun sets OMP_NUM_THREADS=1 unless the user sets it; then 0 means cores / processes here.
    """
    if not number and local_world_size() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        number = max(1, cores // local_world_size())
    if number:
        torch.set_num_threads(number)
