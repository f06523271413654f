"""Several processes that train as one: who they are, and what they tell each other.

`torchrun` starts the processes and says in the environment who each of them is. Without it there
is one process, and everything here hands back what it was given. All processes of a job must make
the same calls in the same order.
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
from torch.nn.parallel import DistributedDataParallel

P, T = ParamSpec("P"), TypeVar("T")
# gloo's and NCCL's words for a process that is no longer there.
_LOST = re.compile(
    r"closed by peer|reset by peer|socket closed|broken pipe|connection refused|connect.*timed out"
    r"|timed out waiting|gloo|nccl|distbackenderror|tcpstore",
    re.IGNORECASE,
)


class MainProcessStopped(SystemExit):
    """The main process has stopped, and has said why; ends the program with exit code 1."""

    def __init__(self) -> None:
        super().__init__(1)


def rank() -> int:
    """The number of this process in the job; the first, 0, writes and speaks."""
    return dist.get_rank() if _is_joined() else 0


def world_size() -> int:
    """The number of processes in the job, over all machines."""
    return dist.get_world_size() if _is_joined() else 1


def is_main_process() -> bool:
    """Tell whether this is the process that writes files and speaks."""
    return rank() == 0


def local_rank() -> int:
    """The number of this process on its machine, which chooses its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Be one of the processes that torchrun has started; without torchrun, be alone.

    All but the first then log errors only.

    Raises:
        RuntimeError: the others did not come.
    """
    if _launched_world_size() == 1:
        yield
        return
    store, own_rank, num_processes = next(dist.rendezvous("env://"))
    # torchrun may keep its store through a restart (torch 2.14, one machine), and with it the
    # addresses of the processes that are gone.
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
    """Return what tells one torchrun from another, the same after its restarts; None without."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none":  # not given by the user: the parent is the torchrun of this machine
        return f"{socket.gethostname()} {os.getppid()}"
    return name


def on_main_process(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function: the main process calls it, and all processes get its result.

    Raises:
        MainProcessStopped: in the other processes, when the function raised in the main one.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
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
    """Collect what each process has, by rank, in the first; the others get an empty list."""
    if world_size() == 1:
        return [part]
    parts = [None] * world_size() if is_main_process() else None
    dist.gather_object(part, parts, dst=0)
    return parts or []


def all_reduce_max(value: int) -> int:
    """Return the largest of the processes' values."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Add the processes' tensors; all get the same bits."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def parallel(model: nn.Module) -> nn.Module:
    """Return what to call instead of the model in training, so that gradients are averaged.

    BatchNorm's running statistics are those of the first process, which the others get before
    each step.
    """
    if world_size() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    return DistributedDataParallel(model)


def broadcast_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def explain_lost(error: RuntimeError) -> str | None:
    """Say in one line that another process is gone; None for another error."""
    if _launched_world_size() > 1 and _LOST.search(f"{type(error).__name__} {error}"):
        own = os.environ["RANK"]
        return f"process {own}: another process of this job has ended; its message says why"
    return None


def set_threads(number: int = 0) -> None:
    """Use so many CPU threads; 0: torch's choice, or a fair part of the cores under torchrun.

    torchrun gives each process one thread unless OMP_NUM_THREADS says otherwise.
    """
    if not number and local_world_size() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        number = max(1, cores // local_world_size())
    if number:
        torch.set_num_threads(number)


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _launched_world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))
