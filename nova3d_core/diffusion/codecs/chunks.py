"""Splits the views of an object into chunks that are decoded one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

CONTEXT_VIEWS = 3
"""Neighbouring views decoded along with a chunk on each side, for temporal layers: see design note
023 for what a seam costs without them."""


@dataclass(frozen=True)
class DecodeChunk:
    """A chunk of views: all of `start:stop` are decoded, of which `first:last` are kept."""

    start: int
    first: int
    last: int
    stop: int

    @property
    def kept(self) -> slice:
        """The kept views among the decoded ones."""
        return slice(self.first - self.start, self.last - self.start)


def decode_chunks(views: int, max_views: int, context: int = 0) -> list[DecodeChunk]:
    """The fewest chunks of even size, which together keep each view once.

    Args:
        views: views of an object.
        max_views: maximum number of views decoded together, at least 1.
        context: views decoded along with a chunk on each side where it has neighbours; fewer where
            they would take more than half of `max_views`.
    """
    max_views = min(max_views, views)
    if max_views < views:
        context = min(context, max_views // 4)
    for count in range(1, views + 1):
        chunks = _even_chunks(views, count, context)
        if all(chunk.stop - chunk.start <= max_views for chunk in chunks):
            return chunks
    return _even_chunks(views, views, 0)


def _even_chunks(views: int, count: int, context: int) -> list[DecodeChunk]:
    """`count` chunks whose sizes differ by at most 1."""
    ends = [-(-views * index // count) for index in range(count + 1)]  # rounded up
    return [
        DecodeChunk(max(first - context, 0), first, last, min(last + context, views))
        for first, last in pairwise(ends)
    ]
