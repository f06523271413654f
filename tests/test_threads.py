"""Work on the threads of a process: at the same time, in order, also after a fork."""

import multiprocessing
import os
import threading

import pytest
import torch

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


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_each_thread_has_its_core_if_there_are_as_many(two_threads):
    ours = os.sched_getaffinity(0)
    torch.set_num_threads(len(ours))
    barrier = threading.Barrier(len(ours), timeout=30)

    def cores(item: int) -> set[int]:
        barrier.wait()
        return os.sched_getaffinity(0)

    if len(ours) > 1:
        found = list(map_in_threads(cores, ours))
        assert all(len(cores) == 1 for cores in found) and set.union(*found) == ours
    assert os.sched_getaffinity(0) == ours
