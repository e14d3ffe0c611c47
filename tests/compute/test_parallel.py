"""`parallel_map`: order, parallelism, errors, and laziness."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from nova3d_core.compute.parallel import parallel_map


@pytest.fixture(params=[1, 3])
def num_threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_are_in_the_order_of_the_items(num_threads, count):
    def square(number):
        time.sleep(0.002 * (number % 3))  # later items finish first
        return number**2

    assert list(parallel_map(square, range(count))) == [n**2 for n in range(count)]


def test_uses_as_many_threads_as_torch(num_threads):
    meeting = threading.Barrier(num_threads)
    assert list(parallel_map(lambda _: meeting.wait(10) >= 0, range(6))) == [True] * 6


def test_raises_errors_after_the_preceding_results(num_threads):
    def fail_at_four(number):
        if number == 4:
            raise ValueError("four")
        return number

    results = parallel_map(fail_at_four, range(10))
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="four"):
        next(results)


def test_stopping_early_starts_few_items(num_threads):
    started = []
    results = parallel_map(lambda number: started.append(number) or number, range(100))
    assert next(results) == 0
    results.close()
    time.sleep(0.05)
    assert 1 <= len(started) <= 2 * num_threads + 1
