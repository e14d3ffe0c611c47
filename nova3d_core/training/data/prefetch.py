"""Background loading of batches, with the exact position in the data after each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .stream import ObjectStream

T = TypeVar("T")

_POLL_S = 0.2
"""Interval at which the thread checks whether to stop."""


@dataclass(frozen=True)
class _Prefetched(Generic[T]):
    batch: T
    data_state: dict[str, Any]


class BatchPrefetcher(Generic[T]):
    """Makes batches of a stream's objects in a background thread.

    Args:
        source: the stream, at its current position; its batch size is `count`.
        count: objects per batch.
        collate: makes the batch of a step from its objects.
        first_step: step of the first batch.
        prefetch_batches: batches loaded in advance; 0 loads each in the calling thread.

    Attributes:
        data_state: state of the stream after the batch returned last, however many were prefetched.
    """

    def __init__(
        self,
        source: ObjectStream,
        count: int,
        collate: Callable[[list[dict[str, Any]], int], T],
        first_step: int = 0,
        prefetch_batches: int = 2,
    ):
        self._source, self._count, self._collate = source, count, collate
        self._step = first_step
        self.data_state = source.state_dict()
        self._items = iter(source)
        self._stop = threading.Event()
        self._queue: queue.Queue[_Prefetched[T] | BaseException] = queue.Queue(
            max(prefetch_batches, 1)
        )
        self._thread: threading.Thread | None = None
        if prefetch_batches:
            self._thread = threading.Thread(target=self._fill, name="training data", daemon=True)
            self._thread.start()

    def next(self) -> T:
        """The next batch. Raises whatever was raised while it was made."""
        if self._thread is None:
            result: _Prefetched[T] | BaseException = self._load()
        else:
            result = self._queue.get()
        if isinstance(result, BaseException):
            self._queue.put(result)  # raised again by later calls
            raise result
        self.data_state = result.data_state
        return result.batch

    def close(self) -> None:
        """Stops the thread and drops prefetched batches."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        close = getattr(self._items, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> BatchPrefetcher[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self) -> _Prefetched[T]:
        objects = [next(self._items) for _ in range(self._count)]
        data_state = self._source.state_dict()
        result = _Prefetched(self._collate(objects, self._step), data_state)
        self._step += 1
        return result

    def _fill(self) -> None:
        while not self._stop.is_set():
            try:
                result: _Prefetched[T] | BaseException = self._load()
            except BaseException as error:  # raised again by `next`
                result = error
            while not self._stop.is_set():
                try:
                    self._queue.put(result, timeout=_POLL_S)
                    break
                except queue.Full:
                    continue
            if isinstance(result, BaseException):
                return
