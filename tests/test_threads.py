"""Work on the threads of a process: at the same time, in order, also after a fork."""

import multiprocessing
import os
import threading

import pytest
import torch

from vision.datasets import threads
from vision.datasets.threads import map_in_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_several_at_a_time_and_in_order(two_threads):
    barrier = threading.Barrier(2, timeout=30)  # one alone would wait here for ever

    def meet(item: int) -> int:
        barrier.wait()
        return 10 * item

    assert list(map_in_threads(meet, range(8))) == [10 * item for item in range(8)]


def test_one_thread_does_it_itself(two_threads):
    torch.set_num_threads(1)
    assert set(map_in_threads(lambda _: threading.get_ident(), range(5))) == {threading.get_ident()}


def test_an_error_comes_out_where_its_item_is(two_threads):
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("3.jpg cannot be read")
        return item

    results = map_in_threads(fail_at_three, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"3\.jpg"):
        next(results)


def _square_all(connection) -> None:
    connection.send(list(map_in_threads(lambda x: x * x, range(6))))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own(two_threads):
    list(map_in_threads(str, range(6)))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_square_all, args=(there,))
    child.start()
    assert here.poll(60), "the child waits for threads of its parent"
    assert here.recv() == [0, 1, 4, 9, 16, 25]
    child.join()


@pytest.mark.parametrize(
    ("cores", "expected"),
    [({2, 5}, [{2}, {5}]), ({2, 5, 7}, []), ({2}, [])],
    ids=["as many", "more", "fewer"],
)
def test_threads_ask_for_a_core_each_if_there_are_as_many(
    two_threads, monkeypatch, cores, expected
):
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, chosen: asked.append(chosen), raising=False
    )
    threads._pool.cache_clear()
    barrier = threading.Barrier(2, timeout=30)
    list(map_in_threads(lambda item: barrier.wait(), range(2)))
    assert sorted(asked, key=min) == expected
    threads._pool.cache_clear()


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@pytest.mark.skipif(num_cores() < 2, reason="needs Linux and two cores")
def test_each_thread_has_its_core_and_the_process_keeps_all(two_threads):
    threads._pool.cache_clear()
    ours = os.sched_getaffinity(0)
    torch.set_num_threads(len(ours))
    barrier = threading.Barrier(len(ours), timeout=30)

    def cores(item: int) -> set[int]:
        barrier.wait()
        return os.sched_getaffinity(0)

    found = list(map_in_threads(cores, ours))
    assert all(len(cores) == 1 for cores in found) and set.union(*found) == ours
    assert os.sched_getaffinity(0) == ours
