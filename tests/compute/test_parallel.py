"""Work on several cores: its order, its errors, how little is begun ahead."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from nova3d_core.compute.parallel import parallel_map


@pytest.fixture(params=[1, 3])
def at_once(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_answers_come_in_the_order_of_the_items(at_once, count):
    def square(number):
        time.sleep(0.002 * (number % 3))  # later ones are done first
        return number**2

    assert list(parallel_map(square, range(count))) == [n**2 for n in range(count)]


def test_as_much_runs_at_once_as_torch_takes_threads(at_once):
    meeting = threading.Barrier(at_once)
    assert list(parallel_map(lambda _: meeting.wait(10) >= 0, range(6))) == [True] * 6


def test_an_error_reaches_the_caller_after_the_answers_before_it(at_once):
    def picky(number):
        if number == 4:
            raise ValueError("four")
        return number

    answers = parallel_map(picky, range(10))
    assert [next(answers) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="four"):
        next(answers)


def test_who_stops_asking_leaves_little_begun(at_once):
    begun = []
    answers = parallel_map(lambda number: begun.append(number) or number, range(100))
    assert next(answers) == 0
    answers.close()
    time.sleep(0.05)
    assert 1 <= len(begun) <= 2 * at_once + 1
