"""Checks at the borders of stages; each error names the input and what was wrong with it."""

from __future__ import annotations

from dataclasses import Field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

INTERNAL = {"internal": True}
"""Metadata of a config field that code may set but users cannot: `field(metadata=INTERNAL)`. No
settings file contains it and no command-line option sets it."""


def public_fields(config: Any) -> list[Field]:
    """The fields of a config dataclass, or of an instance, that users can set."""
    return [each for each in fields(config) if not each.metadata.get("internal")]


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

    if tensor.numel() == 0 or not tensor.is_floating_point():
        return
    extremes = torch.stack(torch.aminmax(tensor.detach()))  # NaN wins; no copy of the tensor
    if bool(torch.isfinite(extremes).all()):
        return
    good = torch.isfinite(tensor)
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


def check_unit_or_zero(name: str, vectors: Tensor) -> None:
    """Raises InputError unless nearly all vectors (..., 3) have length 1, or 0 for "none"."""
    wrong = total = 0
    for part in vectors if vectors.ndim > 2 else (vectors,):  # in parts: no copy of all
        length = part.norm(dim=-1)
        wrong += int((((length - 1.0).abs() > 0.05) & (length > 0.05)).sum())
        total += length.numel()
    share = wrong / max(total, 1)
    if share > 0.05:
        raise InputError(
            f"{name} are no unit vectors: {share:.0%} of them have another length.",
            "A normal image in 0..1 has to be decoded first: 2 p - 1.",
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises InputError unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {_shown(value)}, expected one of {', '.join(choices)}.")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless the value is a number with low <= value <= high; NaN never is."""
    if not _is_number(value, Real) or not low <= value <= high:
        raise InputError(f"{name} is {_shown(value)}, expected {low:g} to {high:g}.")


def check_bounds(config: Any, what: str, **bounds: tuple[float, float]) -> None:
    """Checks number fields of a config dataclass, for its `__post_init__`.

    Args:
        config: the dataclass.
        what: stands before a field's name in errors.
        bounds: lowest and highest value of each field. A field that is annotated as int (or a tuple
            of int) takes whole numbers only; of a tuple, every item is checked; None passes where
            the annotation allows it.

    Raises:
        InputError: naming the first field that is out of its bounds, NaN, or no number.
    """
    hints = {each.name: str(each.type) for each in fields(config)}
    for name, (low, high) in bounds.items():
        value, hint = getattr(config, name), hints[name]
        if value is None and "None" in hint:
            continue
        for item in value if isinstance(value, tuple | list) and "tuple" in hint else (value,):
            if "float" not in hint and _is_number(item, Real) and not _is_number(item, Integral):
                raise InputError(f"{what} {name} is {_shown(item)}, expected a whole number.")
            check_between(f"{what} {name}", item, low, high)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value for an error, at most 80 characters."""
    try:
        text = str(value) if _is_number(value, Real) else repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}..."
