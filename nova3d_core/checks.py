"""Checks at the borders of stages; each error names the input and what was wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: str, **sizes: int) -> dict[str, int]:
    """Checks a tensor against a shape written with the project's letters, e.g. ``"V H W 3"``.

    Args:
        name: how the user knows the tensor.
        tensor: any tensor or array with a `.shape`.
        shape: letters bind to sizes, numbers must match.
        sizes: letters that are bound already.

    Returns:
        The sizes of all letters.

    Raises:
        InputError: naming the tensor, the shape it should have and the one it has.
    """
    letters = shape.split()
    found = dict(sizes)
    fits = len(letters) == len(tensor.shape)
    for letter, size in zip(letters, tensor.shape, strict=False):
        expected = int(letter) if letter.isdigit() else found.setdefault(letter, int(size))
        fits = fits and expected == size
    if not fits:
        known = ", ".join(f"{k} = {v}" for k, v in sizes.items())
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}, expected ({', '.join(letters)})"
            + (f" with {known}." if known else ".")
        )
    return found


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises InputError if any value is NaN or infinite, saying how many and where the first is."""
    import torch

    good = torch.isfinite(tensor)
    if bool(good.all()):
        return
    bad = (~good).nonzero()
    raise InputError(
        f"{name} has {len(bad)} values that are NaN or infinite, the first at index "
        f"{tuple(bad[0].tolist())}.",
        "Check the step that made it: a model that ran out of its number range gives such values.",
    )


def check_range(name: str, tensor: Tensor, low: float, high: float, slack: float = 1e-3) -> None:
    """Raises InputError if a value lies outside low..high by more than `slack`."""
    if tensor.numel() == 0:
        return
    smallest, largest = float(tensor.min()), float(tensor.max())
    if smallest < low - slack or largest > high + slack:
        raise InputError(
            f"{name} has values from {smallest:.4g} to {largest:.4g}, expected {low:g} to {high:g}."
        )


def check_positive(name: str, value: float) -> None:
    """Raises InputError unless the number is above zero."""
    if not value > 0:
        raise InputError(f"{name} is {value}, expected a number above 0.")
