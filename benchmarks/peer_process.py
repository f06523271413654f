"""Running peers in a process of their own, so that our settings do not affect them."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

Task = Callable[[], object]


@contextlib.contextmanager
def peers(build: Callable[..., dict[str, Task]], *arguments: object) -> Iterator[dict[str, Task]]:
    """Start a process that calls `build`; return its tasks by name, which run in that process.

    The two processes never work at the same time. `build` and its arguments are pickled.
    """
    context = multiprocessing.get_context("spawn")
    connection, far_end = context.Pipe()
    process = context.Process(target=_serve, args=(far_end, build, arguments))
    process.start()
    far_end.close()  # so that recv() fails if the process has died
    try:
        yield {name: _Remote(connection, name) for name in connection.recv()}
    finally:
        connection.send(None)
        process.join()


class _Remote:
    def __init__(self, connection: Connection, name: str):
        self.connection, self.name = connection, name

    def __call__(self) -> None:
        self.connection.send(self.name)
        self.connection.recv()


def _serve(connection: Connection, build: Callable[..., dict[str, Task]], arguments: tuple) -> None:
    tasks = build(*arguments)
    connection.send(list(tasks))
    while name := connection.recv():
        tasks[name]()
        connection.send(None)
