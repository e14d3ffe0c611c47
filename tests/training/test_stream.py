"""Rows of objects: shared out without gaps, and resumed at the exact place."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.training.data.shards import ProceduralDataset
from nova3d_core.training.data.stream import ObjectStream, object_seed


class Numbers(ObjectStream):
    """The row 0, 1, 2, ..."""

    def __init__(self, count: int | None = None, **place):
        super().__init__(**place)
        self._count = count

    @property
    def total(self) -> int | None:
        return self._count

    def fetch(self, number):
        return {"number": number}

    def identity(self):
        return {"source": "numbers"}


def taken(stream: ObjectStream, count: int | None = None) -> list[int]:
    return [item["number"] for item in islice(iter(stream), count)]


def test_ranks_take_their_block_of_each_global_batch():
    ranks = [taken(Numbers(24, rank=rank, world=2, block=3)) for rank in range(2)]
    assert ranks[0] == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]
    assert sorted(ranks[0] + ranks[1]) == list(range(24))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    def batches(count: int) -> list[list[int]]:
        loader = torch.utils.data.DataLoader(
            Numbers(36, rank=1, world=2, block=3), batch_size=3, num_workers=count
        )
        return [batch["number"].tolist() for batch in loader]

    assert batches(workers) == batches(0)
    assert batches(0)[:2] == [[3, 4, 5], [9, 10, 11]]


def test_a_stream_goes_on_where_it_stopped():
    whole = taken(Numbers(20))
    stream = Numbers(20)
    items = iter(stream)
    first = [next(items)["number"] for _ in range(7)]
    state = stream.state_dict()
    resumed = Numbers(20)
    resumed.load_state_dict(state)
    assert first + taken(resumed) == whole
    # a stream that goes on counts from where it began
    again = Numbers(20)
    again.load_state_dict(state)
    list(islice(iter(again), 3))
    assert again.state_dict()["place"] == 10


def test_a_reader_ahead_is_told_how_many_were_used():
    stream = Numbers(50, rank=0, world=2, block=4)
    list(islice(iter(stream), 20))
    assert stream.state_dict(taken=8)["place"] == 16
    with pytest.raises(InputError, match="whole number of batches"):
        stream.state_dict(taken=9)


def test_the_world_may_change_between_runs():
    before = [Numbers(48, rank=rank, world=2, block=4) for rank in range(2)]
    seen = [number for stream in before for number in taken(stream, 8)]
    states = [stream.state_dict(taken=8) for stream in before]
    assert states[0] == states[1]
    for rank in range(4):
        after = Numbers(48, rank=rank, world=4, block=2)
        after.load_state_dict(states[0])
        seen += taken(after)
    assert sorted(seen) == list(range(48))


def test_wrong_places_are_refused():
    with pytest.raises(InputError, match="rank is 2 of 2"):
        Numbers(rank=2, world=2)
    with pytest.raises(InputError, match="block is 0"):
        Numbers(block=0)
    stream = Numbers()
    with pytest.raises(InputError, match="its source was procedural, now it is numbers"):
        stream.load_state_dict({"place": 3, "source": "procedural"})


def test_procedural_objects_are_endless_seeded_and_resumed():
    stream = ProceduralDataset(3, 16, 4, kind="solid")
    items = list(islice(iter(stream), 4))
    assert [item["key"] for item in items] == [f"procedural-{object_seed(3, n)}" for n in range(4)]
    assert items[0]["colour"].shape == (4, 16, 16, 3)
    resumed = ProceduralDataset(3, 16, 4, kind="solid")
    resumed.load_state_dict(stream.state_dict(taken=2))
    again = next(iter(resumed))
    for name in ("colour", "normal", "mask"):
        assert torch.equal(again[name], items[2][name])
    other = next(iter(ProceduralDataset(4, 16, 4, kind="solid")))
    assert not torch.equal(other["mask"], items[0]["mask"])
    with pytest.raises(InputError, match="its seed was 3, now it is 4"):
        ProceduralDataset(4).load_state_dict(stream.state_dict())
