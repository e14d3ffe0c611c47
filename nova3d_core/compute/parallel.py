"""Work that lets go of Python's lock, on several cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def parallel_map(work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
    """What work gives for each item, in their order; as many at once as torch takes threads.

    Little is begun ahead of what has been asked for, so that whoever stops waits for little. Work
    must not call this itself: it would wait for threads that wait for it.
    """
    at_once = torch.get_num_threads()
    if at_once == 1 or len(items) < 2:
        yield from map(work, items)
        return
    begun: deque[Future[Answer]] = deque()
    try:
        for item in items:
            begun.append(_pool(at_once).submit(work, item))
            if len(begun) > 2 * at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for job in begun:
            job.cancel()


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="nova3d")
