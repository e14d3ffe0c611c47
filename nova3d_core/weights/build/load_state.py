"""Loads a file's tensors into a network: strict keys, checked shapes, no second copy."""

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
"""Dtypes that every layer can compute in; weights of other dtypes are cast to one of them."""

_MAX_LISTED = 4


@dataclass(eq=False)
class NetworkComponent:
    """One network of a model, with the file and the key map that its weights are loaded from."""

    label: str
    """Name in messages to the user."""
    module: nn.Module
    """The module that the model holds."""
    target: nn.Module
    """`module`, or the submodule whose parameters the key map names; its weights are on the meta
    device until they are loaded."""
    file: WeightFile
    """The open file with the weights."""
    key_map: KeyMap
    """Source of each parameter of `target`."""
    unused_keys: tuple[str, ...] = field(default=())
    """The component's tensors in the file that the key map does not use."""
    exact_prefixes: tuple[str, ...] = field(default=())
    """Prefixes of parameters that keep the file's dtype, whatever is requested."""

    def requested_dtype(self, name: str, dtype: torch.dtype | None) -> torch.dtype | None:
        """The requested dtype of a parameter; None: the file's."""
        return None if name.startswith(self.exact_prefixes) else dtype


def unused_names(
    names: Iterable[str], prefixes: tuple[str, ...], key_map: KeyMap
) -> tuple[str, ...]:
    """Returns the names with one of the prefixes that the key map does not use."""
    used = {source.name for source in key_map.values()}
    return tuple(name for name in names if name.startswith(prefixes) and name not in used)


def check_component(component: NetworkComponent) -> None:
    """Checks the key map against the network and the file, without reading a tensor.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ; lists the first ones.
    """
    key_map, shapes = component.key_map, component.file.shapes
    expected = {name: tuple(value.shape) for name, value in component.target.state_dict().items()}
    available = {None, *shapes}
    where = f"{component.label} in {component.file.path}"
    missing = [
        name for name in expected if name not in key_map or key_map[name].name not in available
    ]
    if missing:
        named = [getattr(key_map.get(name), "name", None) or name for name in missing]
        raise InputError(
            f"the {where} is incomplete: missing keys {_list_names(named)}.",
            "If the file is one shard of several, merge the shards; otherwise download it again.",
        )
    unexpected = [key_map[name].name or name for name in key_map if name not in expected]
    unexpected += component.unused_keys
    if unexpected:
        raise InputError(
            f"the {where} has unexpected keys: {_list_names(unexpected)}.",
            "It is a different model, or a newer one that needs a newer version of this package.",
        )
    wrong = [
        name for name, shape in expected.items() if not _shape_matches(key_map[name], shape, shapes)
    ]
    if wrong:
        source = key_map[wrong[0]].name
        raise InputError(
            f"the {where} has {len(wrong)} tensors of unexpected shapes, for example "
            f"'{source}' with {_shape_text(shapes[source])}.",
            "Check that the file is the model that its name says.",
        )


def component_bytes(component: NetworkComponent, dtype: torch.dtype | None) -> int:
    """Memory of the component's weights in this dtype, or in the file's if None."""
    return sum(
        math.prod(value.shape)
        * storage_dtype(
            _file_dtype(component, name), component.requested_dtype(name, dtype)
        ).itemsize
        for name, value in component.target.state_dict().items()
    )


def load_state(
    component: NetworkComponent, dtype: torch.dtype | None, on_tensor: Callable[[], None]
) -> None:
    """Loads the weights into the network, frozen and in eval mode.

    Args:
        component: checked by `check_component`.
        dtype: of the weights; the file's if None.
        on_tensor: called after each tensor; may raise to stop.

    Raises:
        InputError: a tensor holds NaN or infinite values, or the file is damaged.
    """
    expected = component.target.state_dict()
    key_map = component.key_map
    file_order = {name: index for index, name in enumerate(component.file)}
    ordered = sorted(expected, key=lambda name: file_order.get(key_map[name].name, -1))
    tensors: dict[str, Tensor] = {}
    for name in ordered:
        source = key_map[name]
        requested = component.requested_dtype(name, dtype)
        if source.name is None:
            own_dtype = _identity_dtype(component, requested)
            tensors[name] = _identity_init(expected[name].shape, own_dtype)
        else:
            tensors[name] = _read_parameter(component.file, source, requested)
        on_tensor()
    component.target.load_state_dict(tensors, strict=True, assign=True)
    component.module.requires_grad_(False).eval()


def storage_dtype(own: torch.dtype, requested: torch.dtype | None) -> torch.dtype:
    """The dtype that a weight is kept in: the requested one, else its own if computable."""
    if requested is not None:
        return requested
    if own in COMPUTE_DTYPES:
        return own
    return torch.float32 if own.itemsize > 4 else torch.bfloat16


def _read_parameter(file: WeightFile, source: TensorSource, dtype: torch.dtype | None) -> Tensor:
    """Reads a parameter; a view of the memory-mapped file unless its dtype changes."""
    tensor = source.read(file[source.name])
    kept = storage_dtype(tensor.dtype, dtype)
    # aminmax finds NaN and infinity in one pass, without a temporary copy
    readable = tensor if tensor.dtype in (*COMPUTE_DTYPES, torch.float64) else tensor.float()
    extremes = [float(value) for value in torch.aminmax(readable)] if readable.numel() else [0.0]
    if not all(math.isfinite(value) for value in extremes):
        raise InputError(
            f"{file.path} has NaN or infinite values in '{source.name}'.",
            "The file is damaged: download it again.",
        )
    if max(abs(value) for value in extremes) > torch.finfo(kept).max:
        raise InputError(
            f"{file.path} has values in '{source.name}' beyond the range of {kept}.",
            "Load it as bfloat16.",
        )
    return tensor.to(kept).contiguous()


def _identity_init(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The weight (C, C, 1, 1) or bias (C,) of a 1x1 convolution that is the identity."""
    if len(shape) == 1:
        return torch.zeros(shape, dtype=dtype)
    return torch.eye(shape[0], dtype=dtype)[:, :, None, None]


def _identity_dtype(component: NetworkComponent, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of an identity layer: that of the component's other weights."""
    for name, source in component.key_map.items():
        if source.name is not None:
            return storage_dtype(_file_dtype(component, name), dtype)
    return dtype or torch.float32


def _file_dtype(component: NetworkComponent, name: str) -> torch.dtype:
    source = component.key_map[name].name
    if source is None:
        return torch.float32
    return getattr(torch, component.file.header.tensors[source].dtype, torch.float32)


def _shape_matches(source: TensorSource, shape: Shape, shapes: Mapping[str, Shape]) -> bool:
    return source.name is None or source.parameter_shape(shapes[source.name]) == shape


def _list_names(names: list[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:_MAX_LISTED])
    more = len(names) - _MAX_LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def _shape_text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "a scalar"
