"""Batches made ready ahead: the same ones in the same order, with the place of each."""

from __future__ import annotations

import threading
import time

import pytest

from nova3d_core.training.data.prefetch import BatchPrefetcher, ObjectList


def numbers(count):
    return [{"key": index} for index in range(count)]


def keys(objects, step):
    return step, [each["key"] for each in objects]


@pytest.mark.parametrize("prefetch_batches", [0, 1, 5])
def test_batches_come_in_order_with_their_place(prefetch_batches):
    with BatchPrefetcher(ObjectList(numbers(7), block=2), 2, keys, 10, prefetch_batches) as feed:
        assert feed.place["place"] == 0
        assert feed.next() == (10, [0, 1])
        assert feed.place["place"] == 2
        time.sleep(0.05)  # a thread may have made more: the place does not follow it
        assert feed.place["place"] == 2
        assert feed.next() == (11, [2, 3])
        place = feed.place
    source = ObjectList(numbers(7), block=2)
    source.load_state_dict(place)
    with BatchPrefetcher(source, 2, keys, 12, prefetch_batches) as feed:
        assert [feed.next() for _ in range(2)] == [(12, [4, 5]), (13, [6, 0])]


def test_another_number_of_processes_goes_on_with_the_same_objects():
    with BatchPrefetcher(ObjectList(numbers(100), 0, 1, 4), 4, keys) as feed:
        feed.next()
        place = feed.place
    batches = []
    for rank in (0, 1):
        source = ObjectList(numbers(100), rank, 2, 2)
        source.load_state_dict(place)
        with BatchPrefetcher(source, 2, keys) as feed:
            batches.append([feed.next()[1] for _ in range(2)])
    assert [one + two for one, two in zip(*batches, strict=True)] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_what_goes_wrong_in_the_thread_is_raised_where_batches_are_asked_for():
    def fails(objects, step):
        if step == 1:
            raise ValueError("unreadable")
        return step

    with BatchPrefetcher(ObjectList(numbers(3)), 1, fails) as feed:
        assert feed.next() == 0
        for _ in range(2):
            with pytest.raises(ValueError, match="unreadable"):
                feed.next()


def test_closing_ends_the_thread_at_once():
    before = threading.active_count()
    feed = BatchPrefetcher(ObjectList(numbers(3)), 1, keys, prefetch_batches=2)
    feed.next()
    start = time.monotonic()
    feed.close()
    assert time.monotonic() - start < 2.0
    assert threading.active_count() == before
