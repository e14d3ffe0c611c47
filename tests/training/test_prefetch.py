"""Prefetching: the same batches in the same order, with the position after each."""

from __future__ import annotations

import threading
import time

import pytest

from nova3d_core.training.data.prefetch import BatchPrefetcher

from .parts import ObjectList


def make_items(count):
    return [{"key": index} for index in range(count)]


def keys(objects, step):
    return step, [each["key"] for each in objects]


@pytest.mark.parametrize("prefetch_batches", [0, 1, 5])
def test_batches_are_in_order_with_their_position(prefetch_batches):
    with BatchPrefetcher(
        ObjectList(make_items(7), batch_size=2), 2, keys, 10, prefetch_batches
    ) as prefetcher:
        assert prefetcher.data_state["position"] == 0
        assert prefetcher.next() == (10, [0, 1])
        assert prefetcher.data_state["position"] == 2
        time.sleep(0.05)  # prefetching must not advance the position
        assert prefetcher.data_state["position"] == 2
        assert prefetcher.next() == (11, [2, 3])
        saved = prefetcher.data_state
    source = ObjectList(make_items(7), batch_size=2)
    source.load_state_dict(saved)
    with BatchPrefetcher(source, 2, keys, 12, prefetch_batches) as prefetcher:
        assert [prefetcher.next() for _ in range(2)] == [(12, [4, 5]), (13, [6, 0])]


def test_another_number_of_processes_resumes_with_the_same_objects():
    with BatchPrefetcher(ObjectList(make_items(100), 0, 1, 4), 4, keys) as prefetcher:
        prefetcher.next()
        saved = prefetcher.data_state
    batches = []
    for rank in (0, 1):
        source = ObjectList(make_items(100), rank, 2, 2)
        source.load_state_dict(saved)
        with BatchPrefetcher(source, 2, keys) as prefetcher:
            batches.append([prefetcher.next()[1] for _ in range(2)])
    assert [one + two for one, two in zip(*batches, strict=True)] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_errors_in_the_thread_are_raised_by_next():
    def fails(objects, step):
        if step == 1:
            raise ValueError("unreadable")
        return step

    with BatchPrefetcher(ObjectList(make_items(3)), 1, fails) as prefetcher:
        assert prefetcher.next() == 0
        for _ in range(2):
            with pytest.raises(ValueError, match="unreadable"):
                prefetcher.next()


def test_close_ends_the_thread_promptly():
    before = threading.active_count()
    prefetcher = BatchPrefetcher(ObjectList(make_items(3)), 1, keys, prefetch_batches=2)
    prefetcher.next()
    start = time.monotonic()
    prefetcher.close()
    assert time.monotonic() - start < 2.0
    assert threading.active_count() == before
