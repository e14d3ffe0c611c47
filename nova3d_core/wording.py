"""Words in messages: names of settings as the interface that shows a message has them, counts.

The same check runs in the command line, in ComfyUI's nodes and in scripts. A message that mentions
a setting asks here for its name: an option for the command line, an input for a node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Interface = Literal["command line", "nodes"]

_INTERFACE: ContextVar[Interface] = ContextVar("nova3d_interface", default="command line")


@contextmanager
def interface(name: Interface) -> Iterator[None]:
    """Words messages for an interface within the `with` block, in this thread or task."""
    token = _INTERFACE.set(name)
    try:
        yield
    finally:
        _INTERFACE.reset(token)


def setting(name: str, value: str = "") -> str:
    """A setting in a message: "--align bbox", or "the input align (bbox)" of a node.

    Args:
        name: the node's input; the option is the same with hyphens.
        value: the value to choose.
    """
    if _INTERFACE.get() == "nodes":
        return f"the input {name} ({value})" if value else f"the input {name}"
    option = f"--{name.replace('_', '-')}"
    return f"{option} {value}" if value else option


def by_interface(command_line: str, nodes: str) -> str:
    """The text for the current interface, where the two differ by more than a setting's name."""
    return nodes if _INTERFACE.get() == "nodes" else command_line


def sentence_case(text: str) -> str:
    """The text with a capital first letter, the others unchanged."""
    return text[:1].upper() + text[1:]


def counted(number: int, noun: str) -> str:
    """A number with its noun, given in the singular: "1 mask", "4 masks"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def there_are(number: int, noun: str) -> str:
    """The start of a sentence: "there is 1 mask", "there are 4 masks"."""
    return f"there {'is' if number == 1 else 'are'} {counted(number, noun)}"
