"""Batches made ready in the background, with the exact place in the data of each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .stream import ObjectStream

T = TypeVar("T")

_WAIT_S = 0.2
"""How often a thread looks whether it shall end."""


@dataclass(frozen=True)
class _Made(Generic[T]):
    batch: T
    place: dict[str, Any]


class Feed(Generic[T]):
    """Takes so many objects at a time and makes something of them, a few steps ahead.

    Args:
        source: where objects come from, at the place to begin with; its block is `count`.
        count: objects of a batch.
        make: makes a batch of objects, for a step.
        first_step: the step of the first batch.
        ahead: batches that are made ready by a thread of its own; 0 makes each when it is asked
            for.

    Attributes:
        place: the source's place after the batch given last, whatever lies ready beyond it.
    """

    def __init__(
        self,
        source: ObjectStream,
        count: int,
        make: Callable[[list[dict[str, Any]], int], T],
        first_step: int = 0,
        ahead: int = 2,
    ):
        self._source, self._count, self._make = source, count, make
        self._step = first_step
        self.place = source.state_dict()
        self._items = iter(source)
        self._over = threading.Event()
        self._ready: queue.Queue[_Made[T] | BaseException] = queue.Queue(max(ahead, 1))
        self._thread: threading.Thread | None = None
        if ahead:
            self._thread = threading.Thread(target=self._fill, name="training data", daemon=True)
            self._thread.start()

    def next(self) -> T:
        """The next batch; what went wrong while it was made is raised here."""
        if self._thread is None:
            made: _Made[T] | BaseException = self._one()
        else:
            made = self._ready.get()
        if isinstance(made, BaseException):
            self._ready.put(made)  # whoever asks again is told again
            raise made
        self.place = made.place
        return made.batch

    def close(self) -> None:
        """Ends the thread; what lies ready is thrown away."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Feed[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self) -> _Made[T]:
        objects = [next(self._items) for _ in range(self._count)]
        place = self._source.state_dict()
        made = _Made(self._make(objects, self._step), place)
        self._step += 1
        return made

    def _fill(self) -> None:
        while not self._over.is_set():
            try:
                made: _Made[T] | BaseException = self._one()
            except BaseException as error:  # raised again where batches are asked for
                made = error
            while not self._over.is_set():
                try:
                    self._ready.put(made, timeout=_WAIT_S)
                    break
                except queue.Full:
                    continue
            if isinstance(made, BaseException):
                return


class ObjectList(ObjectStream):
    """A few objects again and again, in order; for tests and for learning one batch by heart.

    Args:
        objects: as a source gives them.
        rank, world, block: see `ObjectStream`.
    """

    total = None

    def __init__(
        self,
        objects: Iterable[dict[str, Any]],
        rank: int | None = None,
        world: int | None = None,
        block: int = 1,
    ):
        super().__init__(rank, world, block)
        self._objects = list(objects)

    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the row."""
        return self._objects[number % len(self._objects)]

    def identity(self) -> dict[str, Any]:
        """How many there are."""
        return {"source": "list", "objects": len(self._objects)}
