"""Core bundles as socket values whose memory ComfyUI's cache can measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


class SocketBundle(tuple):
    """A core bundle as a socket value: a tuple of the bundle's tensors.

    ComfyUI's cache measures an output by its tensors: those in lists and tuples since 0.3.68, and
    those that `_comfy_cache_tensors` returns in later versions. An object that hides its tensors
    counts as empty and is evicted last when memory runs short.
    """

    bundle: Any

    def __new__(cls, bundle: Any, *patchers: Any) -> SocketBundle:
        """Wraps a bundle.

        Args:
            bundle: dataclass; tensors of nested dataclasses are included.
            patchers: the bundle's ModelPatchers; the cache evicts entries that hold some first.
        """
        value = super().__new__(cls, (*_tensors(bundle), *patchers))
        value.bundle = bundle
        return value

    def _comfy_cache_tensors(self) -> list[Any]:
        return list(_tensors(self.bundle))

    def __repr__(self) -> str:
        count = len(self._comfy_cache_tensors())
        return f"SocketBundle({type(self.bundle).__name__}, {count} tensors)"

    __str__ = __repr__  # ComfyUI prints the inputs of a failed node


def _tensors(bundle: Any) -> Iterator[Any]:
    """All tensors of a dataclass and of its nested dataclasses."""
    for field in fields(bundle):
        value = getattr(bundle, field.name)
        if is_dataclass(value):
            yield from _tensors(value)
        elif hasattr(value, "element_size"):
            yield value
