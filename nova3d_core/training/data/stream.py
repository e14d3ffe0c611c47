"""An endless or finite row of objects, shared out to ranks and workers, with a place to go on from.

All readers agree on one numbered row of objects. A global batch takes the next world x block of
them: `block` for each rank, in order of rank. A rank's workers take its blocks in turn, which is
the order in which torch's DataLoader asks them. So the objects of a step depend neither on the
number of workers nor on how a batch is split over ranks, and one number says where training is.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ...errors import InputError

logger = logging.getLogger(__name__)


class ObjectStream(IterableDataset):
    """Objects by their number in the row.

    Args:
        rank, world: which of how many processes this is; asked of torch.distributed if None.
        block: objects a rank takes of each global batch: its batch size. It must be the loader's
            batch size where there are several ranks or workers.
    """

    def __init__(self, rank: int | None = None, world: int | None = None, block: int = 1):
        if block < 1:
            raise InputError(f"block is {block}, expected at least 1: the batch size of a rank.")
        self.rank, self.world = _place_in_world(rank, world)
        self.block = block
        self.place = 0
        self._taken = 0
        self.unreadable: dict[str, str] = {}
        """Objects that could not be read, each with the reason; others came in their places."""

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Objects in the row; None if it is endless."""

    @abstractmethod
    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the row."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same for a place in the row to mean the same."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        self._taken = 0
        start, batch = self.place, self.world * self.block
        while True:
            turn, within = divmod(self._taken, self.block)
            number = start + (turn * workers + worker) * batch + self.rank * self.block + within
            if self.total is not None and number >= self.total:
                return
            item = self.fetch(number)
            self._taken += 1
            yield item

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """Where to go on.

        Args:
            taken: objects that this rank has used since iteration began. Needed where a loader
                reads ahead; what has come out of the iterator if None.

        Raises:
            InputError: with several ranks, in the middle of a batch.
        """
        taken = self._taken if taken is None else taken
        if self.world > 1 and taken % self.block:
            raise InputError(
                f"{taken} objects were taken, which is no whole number of batches of {self.block}.",
                "With several ranks the place is known between batches only.",
            )
        return {"place": self.place + taken * self.world, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on at a saved place, with any number of ranks and workers.

        Raises:
            InputError: the place belongs to other data; the difference is named.
        """
        for name, mine in self.identity().items():
            if state.get(name) != mine:
                raise InputError(
                    f"the place in the data is of other data: its {name} was {state.get(name)}, "
                    f"now it is {mine}.",
                    "Resume with the data that training began with, or start anew.",
                )
        self.place, self._taken = int(state["place"]), 0


def _place_in_world(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of processes; raises InputError if they do not fit."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if rank is None:
        rank = torch.distributed.get_rank() if distributed else 0
    if world is None:
        world = torch.distributed.get_world_size() if distributed else 1
    if not 0 <= rank < world:
        raise InputError(f"rank is {rank} of {world} processes, expected 0 to {world - 1}.")
    return rank, world


class ProceduralDataset(ObjectStream):
    """Procedural objects, made while training runs.

    Object i of seed s is the same mesh as `render-dataset --procedural` with seed s puts there.

    Args:
        seed: chooses the row of objects; two seeds share none.
        size_px: height and width of the images.
        views: cameras, evenly spaced in azimuth.
        count: how many objects; endless if None.
        kind: only objects of one kind.
        rank, world, block: see `ObjectStream`.
    """

    def __init__(
        self,
        seed: int = 0,
        size_px: int = 64,
        views: int = 16,
        count: int | None = None,
        kind: str | None = None,
        rank: int | None = None,
        world: int | None = None,
        block: int = 1,
    ):
        super().__init__(rank, world, block)
        self.seed, self.size_px, self.views = seed, size_px, views
        self.count, self.kind = count, kind

    @property
    def total(self) -> int | None:
        return self.count

    def fetch(self, number: int) -> dict[str, Any]:
        """Colour, normal (V, H, W, 3) uint8, mask (V, H, W) uint8, angles (V,), key."""
        from ..procedural import cells_for, procedural_object
        from .render import render_object

        seed = object_seed(self.seed, number)
        mesh = procedural_object(seed, self.kind, cells_for(self.size_px))
        images = render_object(mesh, self.size_px, self.views, closed=True)
        return {**images, "key": f"procedural-{seed}"}

    def identity(self) -> dict[str, Any]:
        return {"source": "procedural", "seed": self.seed, "kind": self.kind}


def object_seed(seed: int, number: int) -> int:
    """The seed of an object in the row of a seed."""
    return (seed << 32) + number
