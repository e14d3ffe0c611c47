"""Validation of inputs and settings; each error names the input and what is wrong with it."""

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
    """Checks a tensor against a symbolic shape, e.g. ``"V H W 3"``.

    Args:
        name: name of the tensor in errors.
        tensor: any tensor or array with a `.shape`.
        shape: letters bind to sizes, numbers must match.
        sizes: sizes of letters that are bound already.

    Returns:
        The sizes of all letters.

    Raises:
        InputError: with the name of the tensor, the expected and the actual shape.
    """
    letters = shape.split()
    bound = dict(sizes)
    matches = len(letters) == len(tensor.shape)
    for letter, size in zip(letters, tensor.shape, strict=False):
        expected = int(letter) if letter.isdigit() else bound.setdefault(letter, int(size))
        matches = matches and expected == size
    if not matches:
        given = ", ".join(f"{k} = {v}" for k, v in sizes.items())
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}, expected ({', '.join(letters)})"
            + (f" with {given}." if given else ".")
        )
    return bound


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises InputError if any value is NaN or infinite, with their number and first index."""
    import torch

    if tensor.numel() == 0 or not tensor.is_floating_point():
        return
    extremes = torch.stack(torch.aminmax(tensor.detach()))  # propagates NaN; copies nothing
    if bool(torch.isfinite(extremes).all()):
        return
    bad = (~torch.isfinite(tensor)).nonzero()
    raise InputError(
        f"{name} has {len(bad)} values that are NaN or infinite, the first at index "
        f"{tuple(bad[0].tolist())}.",
        "Check the step that produced it: such values come from models that overflow their dtype.",
    )


def check_range(name: str, tensor: Tensor, low: float, high: float, slack: float = 1e-3) -> None:
    """Raises InputError if a value is outside low..high by more than `slack`."""
    if tensor.numel() == 0:
        return
    minimum, maximum = float(tensor.min()), float(tensor.max())
    if minimum < low - slack or maximum > high + slack:
        raise InputError(
            f"{name} has values from {minimum:.4g} to {maximum:.4g}, expected {low:g} to {high:g}."
        )


def check_unit_or_zero(name: str, vectors: Tensor) -> None:
    """Raises InputError unless at least 95 % of the vectors (..., 3) have length 1 or 0."""
    wrong = total = 0
    for chunk in vectors if vectors.ndim > 2 else (vectors,):  # chunks bound the memory
        length = chunk.norm(dim=-1)
        wrong += int((((length - 1.0).abs() > 0.05) & (length > 0.05)).sum())
        total += length.numel()
    fraction = wrong / max(total, 1)
    if fraction > 0.05:
        raise InputError(
            f"{name} are not unit vectors: {fraction:.0%} of them have another length.",
            "A normal map in 0..1 must be decoded first: 2 p - 1.",
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises InputError unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {_format_value(value)}, expected one of {', '.join(choices)}.")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless the value is a number with low <= value <= high, and not NaN."""
    if not _is_number(value, Real) or not low <= value <= high:
        limits = f"{_format_bound(low)} to {_format_bound(high)}"
        raise InputError(f"{name} is {_format_value(value)}, expected {limits}.")


def check_bounds(config: Any, label: str, **bounds: tuple[float, float]) -> None:
    """Checks numeric fields of a config dataclass, for its `__post_init__`.

    Args:
        config: the dataclass.
        label: prefix of the field names in errors.
        bounds: minimum and maximum of each field. Fields annotated as int (or tuple of int) must be
            integers; all items of a tuple are checked; None is valid if the annotation allows it.

    Raises:
        InputError: with the name of the first field that is out of bounds, NaN, or not a number.
    """
    hints = {each.name: str(each.type) for each in fields(config)}
    for name, (low, high) in bounds.items():
        value, hint = getattr(config, name), hints[name]
        if value is None and "None" in hint:
            continue
        for item in value if isinstance(value, tuple | list) and "tuple" in hint else (value,):
            if "float" not in hint and _is_number(item, Real) and not _is_number(item, Integral):
                raise InputError(
                    f"{label} {name} is {_format_value(item)}, expected a whole number."
                )
            check_between(f"{label} {name}", item, low, high)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _format_bound(value: float) -> str:
    """A limit as text, large whole numbers in full: 1,000,000 instead of 1e+06."""
    is_large_whole = 1e5 <= abs(value) < 1e12 and value == int(value)
    return f"{int(value):,}" if is_large_whole else f"{value:g}"


def _format_value(value: Any) -> str:
    """A value as text of at most 80 characters."""
    try:
        text = str(value) if _is_number(value, Real) else repr(value)
    except ValueError:  # Python does not convert integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}..."
