"""Reads the tensors of a model file one at a time, without a second copy of them.

safetensors files and torch's zip files are memory-mapped: unused tensors are never read. Pickles
are read by torch.load with weights_only, which runs no code, after `inspect` has checked them.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...compute.devices import is_out_of_memory
from ...errors import InputError, Nova3DError
from ...io.files.containment import quote_value, shorten
from .header import ModelHeader
from .inspect import read_header
from .pickles import COMPRESSED, FOREIGN_CODE

log = logging.getLogger(__name__)

_OUT_OF_MEMORY_TEXTS = ("not enough memory", "can't allocate memory", "cannot allocate memory")


class WeightFile(Mapping[str, Tensor]):
    """An open model file: a mapping from keys to tensors, which are read on access.

    Tensors stay valid after the file is closed. They are memory-mapped copy-on-write: changing
    one in place never changes the file.

    Attributes:
        path: of the file.
        header: its keys, dtypes and shapes.
        shapes: of the tensors, by key.
    """

    def __init__(self, path: Path, header: ModelHeader, reader: Any):
        self.path = path
        self.header = header
        self.shapes = {name: info.shape for name, info in header.tensors.items()}
        self._reader = reader

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.header.tensors:
            raise KeyError(name)
        with translate_read_errors(self.path):
            if isinstance(self._reader, dict):
                return self._reader[name]
            return self._reader.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def __len__(self) -> int:
        return len(self.header.tensors)


@contextmanager
def open_weights(path: Path | str) -> Iterator[WeightFile]:
    """Opens a .safetensors, .ckpt, .pth, .pt or .bin file.

    Raises:
        InputError: the file is truncated, damaged, not a model, or a pickle that would run code;
            says which, and what to do. Also if memory runs out.
    """
    path = Path(path)
    header = read_header(path)
    if not header.tensors:
        raise InputError(
            f"{path} has no readable tensors: "
            + (shorten(" ".join(header.notes)) or "it is empty."),
            "Use a .safetensors version of the model.",
        )
    if header.format != "safetensors":
        yield WeightFile(path, header, _read_pickle(path, header))
        return
    from safetensors import safe_open

    with translate_read_errors(path):
        reader = safe_open(str(path), framework="pt", device="cpu")
    with reader:
        yield WeightFile(path, header, reader)


def _read_pickle(path: Path, header: ModelHeader) -> dict[str, Tensor]:
    """The state dict of a PyTorch file, memory-mapped if its format allows it."""
    if COMPRESSED in header.notes:
        raise InputError(
            f"{path} is a PyTorch file with compressed entries, which cannot be memory-mapped.",
            "Load it with torch and save it again, or download it again.",
        )
    options = {"mmap": True} if header.format == "torch_zip" else {}
    with translate_read_errors(path):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, **options)
        except pickle.UnpicklingError as error:
            notes = [note for note in header.notes if note.startswith(FOREIGN_CODE)]
            raise InputError(
                f"{path} would run code while it is read, so it was not loaded. "
                + (notes[0] if notes else "It contains more than plain weights."),
                "Use a .safetensors version of the model, or a file from a source that you trust.",
            ) from error
        for key in header.root.split(".") if header.root else ():
            loaded = loaded[key]
        tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
        for name, info in header.tensors.items():
            if tuple(tensors[name].shape) != info.shape:
                raise TypeError(
                    f"tensor {quote_value(name)} has a different shape than in the header"
                )
    return tensors


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Translates what readers raise on damaged files, or without memory, into an InputError.

    The readers of torch and safetensors raise anything on unexpected bytes: assertions, lookup
    errors, decoding errors.
    """
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory_error(path) from error
    except OSError as error:
        if is_out_of_memory(error):
            raise _out_of_memory_error(path) from error
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Nova3DError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or any(
            text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS
        ):
            raise _out_of_memory_error(path) from error
        log.debug("reading %s failed", path, exc_info=True)
        raise InputError(
            f"{path} is not a readable checkpoint: it is damaged or truncated.",
            "Download it again.",
        ) from error


def _out_of_memory_error(path: Path) -> InputError:
    return InputError(
        f"{path} does not fit into memory.",
        "Close other programs, load it as float16 or bfloat16, or use a smaller model.",
    )
