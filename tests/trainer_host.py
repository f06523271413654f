"""Runs the trainer many times, in processes of its own, without importing torch each time.

A host process imports the trainer once and forks for each run, so a run costs its training alone.
It runs other scripts too, and several processes that train as one, as torchrun would start them.
A run may carry a plan of what happens to it at a chosen call: SIGKILL, another signal, a file cut
in half, a limit on the size of files.
"""

import functools
import gc
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a run says of itself, a byte each, in a file that outlives it.
PHASES = {
    "writing a checkpoint": ("vision.runs.checkpoint_writer.CheckpointWriter", "_write"),
    "writing metrics": ("vision.engine.metrics.MetricsLog", "append"),
    "in a step": ("vision.engine.train", "train_step"),
    "in validation": ("vision.evaluation.validator", "evaluate"),
    "building": ("train_ssd", "open_data"),
}


@dataclass
class At:
    """Something that happens in a run: `what`, when `function` is called.

    Attributes:
        function: dotted name, as the code that calls it looks it up.
        call: which of the matching calls, from 1.
        match: a call matches if this is part of its arguments' text.
        what: a signal's name, `torn` (of os.replace: half of the new file is there, then SIGKILL),
            or `fsize` (files larger than 1 MB can no longer be written).
        after: after the call instead of before it.
    """

    function: str
    call: int = 1
    match: str = ""
    what: str = "SIGKILL"
    after: bool = False


@dataclass
class Finished:
    """How a run ended: the exit code, -9 for SIGKILL, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class TrainerHost:
    """The host, as the tests see it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def run(self, *argv, plan: list[At] | At | None = None, script: str = "train_ssd") -> Finished:
        """Run `train_ssd.py argv` to its end."""
        return self.wait(self.start(*argv, plan=plan, script=script))

    def run_processes(
        self,
        *argv,
        count: int,
        script: str = "train_ssd",
        of_second: tuple = (),
        plan_of_second: At | None = None,
        settings: dict[str, object] | None = None,
    ) -> list[Finished]:
        """Run a script in several processes that train as one; return how each ended, by rank.

        `of_second`: further flags of process 1; `plan_of_second`: what happens to it; `settings`:
        other values of the program's constants, by dotted names.
        """
        job = {
            "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
        }  # fmt: skip
        pids = [
            self.start(
                *argv,
                *(of_second if rank == 1 else ()),
                plan=plan_of_second if rank == 1 else None,
                script=script,
                environment={**job, "RANK": rank, "LOCAL_RANK": rank},
                settings=settings,
            )
            for rank in range(count)
        ]
        # Processes that wait for each other for ever are a failure, not a test without end.
        alarm = threading.Timer(300, lambda: [self.kill(pid) for pid in pids])
        alarm.start()
        finished = [self.wait(pid) for pid in pids]
        alarm.cancel()
        return finished

    def start(
        self,
        *argv,
        plan: list[At] | At | None = None,
        marks: Path | None = None,
        script: str = "train_ssd",
        environment: dict[str, object] | None = None,
        settings: dict[str, object] | None = None,
    ) -> int:
        """Start `train_ssd.py argv`; return its process id.

        Args:
            argv: flags.
            plan: what is to happen to it.
            marks: file of one byte for each of PHASES, which is 1 while the run is in it.
            script: another module with a main(argv).
            environment: variables to set.
            settings: other values of the program's constants, by dotted names.
        """
        self._count += 1
        plan = [plan] if isinstance(plan, At) else plan or []
        request = {
            "argv": [str(arg) for arg in argv],
            "plan": [vars(at) for at in plan],
            "marks": str(marks or ""),
            "script": script,
            "environment": {name: str(value) for name, value in (environment or {}).items()},
            "settings": settings or {},
            "output": str(self._folder / f"run_{self._count}"),
        }
        return self._ask(request)["pid"]

    def wait(self, pid: int, *, until_stopped: bool = False) -> Finished | None:
        """Wait for the end of a run, or until a SIGSTOP of its plan."""
        answer = self._ask({"pid": pid, "until_stopped": until_stopped})
        if until_stopped:
            return None
        text = {name: Path(answer["output"] + name).read_text() for name in (".out", ".err")}
        # torch 2.10's Gloo says on stdout that it is connected.
        stdout = "".join(x for x in text[".out"].splitlines(True) if not x.startswith("[Gloo] "))
        return Finished(answer["returncode"], stdout, text[".err"])

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def _ask(self, request: dict) -> dict:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def serve() -> None:
    """Answer requests until the input ends."""
    importlib.import_module("train_ssd")
    outputs = {}
    gc.freeze()  # or a run's first collections copy the whole of torch's memory
    for line in sys.stdin:
        request = json.loads(line)
        if "argv" in request:
            pid = os.fork()
            if pid == 0:
                _run(request)
            outputs[pid] = request["output"]
            answer = {"pid": pid}
        else:
            pid = request["pid"]
            _, status = os.waitpid(pid, os.WUNTRACED if request["until_stopped"] else 0)
            ended = not os.WIFSTOPPED(status)
            returncode = os.waitstatus_to_exitcode(status) if ended else None
            answer = {"returncode": returncode, "output": outputs[pid]}
        print(json.dumps(answer), flush=True)


def _run(request: dict) -> None:
    """Run a script in this forked process, and end it without torch's slow farewell."""
    _redirect(request["output"])
    os.environ.update(request["environment"])
    for place, value in request["settings"].items():
        module, _, name = place.rpartition(".")
        setattr(importlib.import_module(module), name, value)
    for at in request["plan"]:
        _install(At(**at))
    if request["marks"]:
        _install_marks(request["marks"])
    code = 1
    try:
        code = importlib.import_module(request["script"]).main(request["argv"])
    except SystemExit as exit:
        code = exit.code
    except BaseException:  # noqa: BLE001  as an interpreter would at its end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(output: str) -> None:
    for descriptor, name in ((0, os.devnull), (1, output + ".out"), (2, output + ".err")):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)


def _install(at: At) -> None:
    """Wrap a function so that something happens at one of its calls."""
    module_name, _, name = at.function.rpartition(".")
    module = importlib.import_module(module_name)
    function = getattr(module, name)
    calls = 0

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal calls
        text = str(args)
        matches = at.match in text
        calls += matches
        is_it = matches and calls == at.call
        if is_it and not at.after:
            _happen(at.what, args)
        result = function(*args, **kwargs)
        if is_it and at.after:
            _happen(at.what, args)
        return result

    setattr(module, name, wrapper)


def _install_marks(path: str) -> None:
    with open(path, "r+b") as file:
        marks = mmap.mmap(file.fileno(), 0)

    def mark(index: int, function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            marks[index] = 1
            try:
                return function(*args, **kwargs)
            finally:
                marks[index] = 0

        return wrapper

    for index, (owner_name, name) in enumerate(PHASES.values()):
        module_name, _, class_name = owner_name.rpartition(".")
        if class_name[0].isupper():
            owner = getattr(importlib.import_module(module_name), class_name)
        else:
            owner = importlib.import_module(owner_name)
        setattr(owner, name, mark(index, getattr(owner, name)))


def _happen(what: str, args: tuple) -> None:
    if what == "fsize":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        return
    if what == "torn":
        os.truncate(args[0], os.stat(args[0]).st_size // 2)
        what = "SIGKILL"
    os.kill(os.getpid(), getattr(signal, what))


if __name__ == "__main__":
    serve()
