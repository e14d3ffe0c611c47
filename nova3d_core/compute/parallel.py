"""Thread pools for work that releases the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Ordered lazy map on `torch.get_num_threads()` threads.

    Only a few items are processed ahead of the consumer, so that stopping early wastes little work.
    `function` must not call `parallel_map` itself: nested calls would deadlock.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(items) < 2:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(thread_pool(num_threads, "nova3d").submit(function, item))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@cache
def thread_pool(size: int, name: str) -> ThreadPoolExecutor:
    """The process-wide thread pool of this name; its threads start on demand."""
    return ThreadPoolExecutor(size, thread_name_prefix=name)
