"""Work spread over threads: every item once, results in order, errors raised, nothing begun after one."""

import threading

import pytest
import torch

from backend.render import parallel


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_every_item_is_done_once(four_threads):
    done = []
    assert parallel.run(lambda n: done.append(n) or n * n, [(n,) for n in range(50)]) == [n * n for n in range(50)]
    assert sorted(done) == list(range(50))


def test_threads_really_work_side_by_side(four_threads):
    """Each waits for the others: with fewer than four at once nobody would get past the barrier."""
    barrier = threading.Barrier(4, timeout=20)
    assert len(parallel.run(lambda: barrier.wait(), [()] * 4)) == 4


def test_work_within_work_stays_on_its_thread(four_threads):
    def outer(n):
        names = parallel.run(lambda _: threading.current_thread().name, [(i,) for i in range(3)])
        return set(names) == {threading.current_thread().name} and parallel.thread_count() == 1

    assert all(parallel.run(outer, [(n,) for n in range(8)]))
    assert parallel.thread_count() == 4


@pytest.mark.parametrize("bad", [0, 7])
def test_an_error_is_raised_and_ends_the_work(four_threads, bad):
    begun = []

    def work(n):
        begun.append(n)
        if n == bad:
            raise ValueError(f"item {n}")

    with pytest.raises(ValueError, match=f"item {bad}"):
        parallel.run(work, [(n,) for n in range(100000)])
    assert len(begun) < 100000
    assert parallel.run(lambda n: n, [(1,), (2,)]) == [1, 2]  # and the pool is sound
