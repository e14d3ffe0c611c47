"""Endless or finite sequences of objects, distributed over ranks, resumable at the exact position.

All ranks agree on one numbered sequence. A global batch is its next world_size x batch_size
objects: `batch_size` per rank, in order of rank. So the objects of a step do not depend on how a
batch is split over ranks, and the position in the data is one number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from ...errors import InputError
from .config import ImageConfig
from .sampled_orbits import orbit_of_object


class ObjectStream(ABC):
    """Objects by their number in a sequence.

    Args:
        rank, world_size: which of how many processes this is.
        batch_size: objects that a rank takes of each global batch.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, batch_size: int = 1):
        if batch_size < 1:
            raise InputError(f"the batch size of a rank is {batch_size}, expected at least 1.")
        if not 0 <= rank < world_size:
            raise InputError(
                f"rank is {rank} of {world_size} processes, expected 0 to {world_size - 1}."
            )
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.position = 0
        self._taken = 0
        self.unreadable: dict[str, str] = {}
        """Objects that could not be read, with the reason; others were used instead."""

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Length of the sequence; None if it is endless."""

    @abstractmethod
    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the sequence."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be equal for a position to refer to the same object."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._taken = 0
        start, global_batch = self.position, self.world_size * self.batch_size
        while True:
            batch, index = divmod(self._taken, self.batch_size)
            number = start + batch * global_batch + self.rank * self.batch_size + index
            if self.total is not None and number >= self.total:
                return
            item = self.fetch(number)
            self._taken += 1
            yield item

    def state_dict(self) -> dict[str, Any]:
        """The position after the objects yielded so far.

        Raises:
            InputError: with several ranks, in the middle of a batch.
        """
        if self.world_size > 1 and self._taken % self.batch_size:
            raise InputError(
                f"{self._taken} objects were taken, not a multiple of the batch size "
                f"{self.batch_size}.",
                "With several ranks the position is defined between batches only.",
            )
        return {"position": self.position + self._taken * self.world_size, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes at a saved position, with any number of ranks.

        Raises:
            InputError: the position belongs to other data; the difference is named.
        """
        for name, value in self.identity().items():
            if state.get(name) != value:
                raise InputError(
                    f"the saved position belongs to other data: its {name} was {state.get(name)}, "
                    f"now it is {value}.",
                    "Resume with the data that training started with, or start a new run.",
                )
        self.position, self._taken = int(state["position"]), 0


class ProceduralDataset(ObjectStream):
    """Procedural objects, generated on the fly.

    Object i of seed s is the same mesh as in `render-dataset --procedural` with seed s.

    Args:
        seed: selects the sequence of objects; two seeds share none.
        size_px: height and width of the images.
        views: number of views; the family's if None.
        count: number of objects; endless if None.
        kind: only objects of one kind.
        rank, world_size, batch_size: see `ObjectStream`.
        family: the model family whose orbits are rendered; see `orbits.TRAINING_ORBITS`.
    """

    def __init__(
        self,
        seed: int = 0,
        size_px: int = 64,
        views: int | None = None,
        count: int | None = None,
        kind: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        family: str = "nova3d",
    ):
        super().__init__(rank, world_size, batch_size)
        self.seed, self.count, self.kind = seed, count, kind
        self.image = ImageConfig(size_px=size_px, family=family, views=views)

    @property
    def total(self) -> int | None:
        return self.count

    def fetch(self, number: int) -> dict[str, Any]:
        """Colour, normal (V, H, W, 3) uint8, mask (V, H, W) uint8, angles (V,), key."""
        from ..procedural import grid_cells, procedural_object
        from .render import render_object

        seed = object_seed(self.seed, number)
        mesh = procedural_object(seed, self.kind, grid_cells(self.image.size_px))
        orbit = orbit_of_object(self.image.orbit, self.image.view_count, seed)
        images = render_object(mesh, config=self.image, closed=True, orbit=orbit)
        return {**images, "key": f"procedural-{seed}"}

    def identity(self) -> dict[str, Any]:
        orbit = self.image.orbit.motion
        own = {} if orbit == "level" else {"orbit": orbit}
        return {"source": "procedural", "seed": self.seed, "kind": self.kind, **own}


def object_seed(seed: int, number: int) -> int:
    """The seed of object `number` in the sequence of a dataset seed."""
    return (seed << 32) + number
