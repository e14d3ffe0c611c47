"""How a bundle of the core travels through a socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


class Parcel(tuple):
    """A core bundle on its way from node to node; as a tuple it holds the bundle's tensors.

    The host's cache counts the memory of an output by its tensors, in lists and tuples since 0.3.68
    and by `_comfy_cache_tensors` in later versions. An object that hides its tensors counts as
    nothing and is thrown away last when memory runs short.
    """

    bundle: Any

    def __new__(cls, bundle: Any, *patchers: Any) -> Parcel:
        """Packs a dataclass.

        Args:
            bundle: its tensors are those of the core's dataclasses in it.
            patchers: what the host manages of it; its cache gives these up before other things.
        """
        parcel = super().__new__(cls, (*_tensors(bundle), *patchers))
        parcel.bundle = bundle
        return parcel

    def _comfy_cache_tensors(self) -> list[Any]:
        return list(_tensors(self.bundle))

    def __repr__(self) -> str:
        count = len(self._comfy_cache_tensors())
        return f"Parcel({type(self.bundle).__name__}, {count} tensors)"

    __str__ = __repr__  # the host writes a failed node's inputs into its report


def _tensors(bundle: Any) -> Iterator[Any]:
    """All tensors of a dataclass, and of the dataclasses in it."""
    for each in fields(bundle):
        value = getattr(bundle, each.name)
        if is_dataclass(value):
            yield from _tensors(value)
        elif hasattr(value, "element_size"):
            yield value
