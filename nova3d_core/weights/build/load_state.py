"""Fills a network with a file's tensors: nothing missing, nothing left over, no second copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..files.read import WeightFile
from ..keymaps.unet import KeyMap, Shape, TensorSource

COMPUTE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Number formats that every layer can compute in; weights in others are brought to one of them."""

_LISTED = 4


@dataclass(eq=False)
class NetworkComponent:
    """One network of a model, and where its weights come from."""

    label: str
    """What users call it."""
    module: nn.Module
    """What the model keeps."""
    filled: nn.Module
    """The module inside whose parameters are the plan's; its weights are on the meta device."""
    file: WeightFile
    """Holds the weights."""
    key_map: KeyMap
    """Where each parameter lies in the file."""
    unused_keys: tuple[str, ...] = field(default=())
    """The part's tensors in the file that the plan does not use."""


def unused_names(
    names: Iterable[str], prefixes: tuple[str, ...], key_map: KeyMap
) -> tuple[str, ...]:
    """The names below the prefixes that the plan does not use."""
    used = {source.name for source in key_map.values()}
    return tuple(name for name in names if name.startswith(prefixes) and name not in used)


def check_component(part: NetworkComponent) -> None:
    """Checks the plan against the network and the file, without reading a tensor.

    Raises:
        InputError: tensors are missing, left over or of another shape; lists the first ones.
    """
    wanted = {name: tuple(value.shape) for name, value in part.filled.state_dict().items()}
    found = part.file.shapes
    known = {None, *found}
    where = f"{part.label} in {part.file.path}"
    missing = [
        name for name in wanted if name not in part.key_map or part.key_map[name].name not in known
    ]
    if missing:
        named = [getattr(part.key_map.get(name), "name", None) or name for name in missing]
        raise InputError(
            f"the {where} is incomplete: it lacks {_listed(named)}.",
            "If it is one shard of several, join them; otherwise download it again.",
        )
    extra = [part.key_map[name].name or name for name in part.key_map if name not in wanted]
    extra += part.unused_keys
    if extra:
        raise InputError(
            f"the {where} holds tensors that are not known here: {_listed(extra)}.",
            "It is another model, or a newer one: look for a newer version of this package.",
        )
    wrong = [name for name, shape in wanted.items() if not _fits(part.key_map[name], shape, found)]
    if wrong:
        source = part.key_map[wrong[0]].name
        raise InputError(
            f"the {where} has tensors of other shapes than expected, the first of {len(wrong)}: "
            f"'{source}' has {_text(found[source])}.",
            "Check that it is the model that it is named as.",
        )


def component_bytes(part: NetworkComponent, dtype: torch.dtype | None) -> int:
    """Memory that the part's weights take, in this number format or in the file's."""
    return sum(
        math.prod(value.shape) * (storage_dtype(_file_dtype(part, name), dtype)).itemsize
        for name, value in part.filled.state_dict().items()
    )


def fill(part: NetworkComponent, dtype: torch.dtype | None, each: Callable[[], None]) -> None:
    """Gives the network its weights, which then need no gradients.

    Args:
        part: checked by `check_component`.
        dtype: the weights' number format; the file's if None.
        each: called after each tensor; may raise to stop.

    Raises:
        InputError: a tensor holds NaN or infinite values, or the file is damaged.
    """
    wanted = part.filled.state_dict()
    place = {name: index for index, name in enumerate(part.file)}
    order = sorted(wanted, key=lambda name: place.get(part.key_map[name].name, -1))
    tensors: dict[str, Tensor] = {}
    for name in order:
        source = part.key_map[name]
        if source.name is None:
            tensors[name] = _identity_init(wanted[name].shape, _idle_dtype(part, dtype))
        else:
            tensors[name] = _read_parameter(part.file, source, dtype)
        each()
    part.filled.load_state_dict(tensors, strict=True, assign=True)
    part.module.requires_grad_(False).eval()


def storage_dtype(own: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The number format that a weight is kept in: the wanted one, else its own if computable."""
    if wanted is not None:
        return wanted
    if own in COMPUTE_DTYPES:
        return own
    return torch.float32 if own.itemsize > 4 else torch.bfloat16


def _read_parameter(file: WeightFile, source: TensorSource, dtype: torch.dtype | None) -> Tensor:
    """A parameter, a view of the mapped file unless its number format changes."""
    tensor = source.take(file[source.name])
    kept = storage_dtype(tensor.dtype, dtype)
    # The smallest and largest value tell of NaN and infinity in one pass without a copy.
    plain = tensor if tensor.dtype in (*COMPUTE_DTYPES, torch.float64) else tensor.float()
    ends = [float(end) for end in torch.aminmax(plain)] if plain.numel() else [0.0]
    if not all(math.isfinite(end) for end in ends):
        raise InputError(
            f"{file.path} has NaN or infinite values in '{source.name}'.",
            "The file is damaged: download it again.",
        )
    if max(abs(end) for end in ends) > torch.finfo(kept).max:
        raise InputError(
            f"{file.path} has values in '{source.name}' that {kept} cannot hold.",
            "Load it as bfloat16.",
        )
    return tensor.to(kept).contiguous()


def _identity_init(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The weight (C, C, 1, 1) or bias (C,) of a 1x1 convolution that changes nothing."""
    if len(shape) == 1:
        return torch.zeros(shape, dtype=dtype)
    return torch.eye(shape[0], dtype=dtype)[:, :, None, None]


def _idle_dtype(part: NetworkComponent, dtype: torch.dtype | None) -> torch.dtype:
    """The number format of the part's other weights."""
    for name, source in part.key_map.items():
        if source.name is not None:
            return storage_dtype(_file_dtype(part, name), dtype)
    return dtype or torch.float32


def _file_dtype(part: NetworkComponent, name: str) -> torch.dtype:
    source = part.key_map[name].name
    if source is None:
        return torch.float32
    return getattr(torch, part.file.header.tensors[source].dtype, torch.float32)


def _fits(source: TensorSource, shape: Shape, found: Mapping[str, Shape]) -> bool:
    return source.name is None or source.shape(found[source.name]) == shape


def _listed(names: list[str]) -> str:
    first = ", ".join(f"'{name}'" for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{first} and {more} more" if more > 0 else first


def _text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "a single number"
