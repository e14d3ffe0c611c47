"""Object streams: distributed without gaps, resumed at the exact position."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.training.data.stream import ObjectStream, ProceduralDataset, object_seed


class Numbers(ObjectStream):
    """The sequence 0, 1, 2, ..."""

    def __init__(self, count: int | None = None, **distributed):
        super().__init__(**distributed)
        self._count = count

    @property
    def total(self) -> int | None:
        return self._count

    def fetch(self, number):
        return {"number": number}

    def identity(self):
        return {"source": "numbers"}


def take(stream: ObjectStream, count: int | None = None) -> list[int]:
    return [item["number"] for item in islice(iter(stream), count)]


def test_ranks_take_their_part_of_each_global_batch():
    ranks = [take(Numbers(24, rank=rank, world_size=2, batch_size=3)) for rank in range(2)]
    assert ranks[0] == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]
    assert sorted(ranks[0] + ranks[1]) == list(range(24))


def test_second_rank_starts_after_the_first():
    assert take(Numbers(36, rank=1, world_size=2, batch_size=3), 6) == [3, 4, 5, 9, 10, 11]


def test_resumes_where_it_stopped():
    full = take(Numbers(20))
    stream = Numbers(20)
    items = iter(stream)
    first = [next(items)["number"] for _ in range(7)]
    state = stream.state_dict()
    resumed = Numbers(20)
    resumed.load_state_dict(state)
    assert first + take(resumed) == full
    # a resumed stream counts from its initial position
    again = Numbers(20)
    again.load_state_dict(state)
    list(islice(iter(again), 3))
    assert again.state_dict()["position"] == 10


def test_position_is_defined_between_batches_only():
    stream = Numbers(50, rank=0, world_size=2, batch_size=4)
    items = iter(stream)
    for _ in range(8):
        next(items)
    assert stream.state_dict()["position"] == 16
    next(items)
    with pytest.raises(InputError, match="not a multiple of the batch size"):
        stream.state_dict()


def test_number_of_processes_may_change_between_runs():
    before = [Numbers(48, rank=rank, world_size=2, batch_size=4) for rank in range(2)]
    seen = [number for stream in before for number in take(stream, 8)]
    states = [stream.state_dict() for stream in before]
    assert states[0] == states[1]
    for rank in range(4):
        after = Numbers(48, rank=rank, world_size=4, batch_size=2)
        after.load_state_dict(states[0])
        seen += take(after)
    assert sorted(seen) == list(range(48))


def test_rejects_wrong_ranks_and_states():
    with pytest.raises(InputError, match="rank is 2 of 2"):
        Numbers(rank=2, world_size=2)
    with pytest.raises(InputError, match="batch size of a rank is 0"):
        Numbers(batch_size=0)
    stream = Numbers()
    with pytest.raises(InputError, match="its source was procedural, now it is numbers"):
        stream.load_state_dict({"position": 3, "source": "procedural"})


def test_procedural_objects_are_endless_seeded_and_resumable():
    stream = ProceduralDataset(3, 16, 4, kind="solid")
    iterator = iter(stream)
    items = list(islice(iterator, 2))
    state = stream.state_dict()
    items += islice(iterator, 2)
    assert [item["key"] for item in items] == [f"procedural-{object_seed(3, n)}" for n in range(4)]
    assert items[0]["colour"].shape == (4, 16, 16, 3)
    resumed = ProceduralDataset(3, 16, 4, kind="solid")
    resumed.load_state_dict(state)
    again = next(iter(resumed))
    for name in ("colour", "normal", "mask"):
        assert torch.equal(again[name], items[2][name])
    other = next(iter(ProceduralDataset(4, 16, 4, kind="solid")))
    assert not torch.equal(other["mask"], items[0]["mask"])
    with pytest.raises(InputError, match="its seed was 3, now it is 4"):
        ProceduralDataset(4).load_state_dict(stream.state_dict())
