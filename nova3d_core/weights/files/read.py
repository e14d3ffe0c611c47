"""Reads the tensors of a model file one at a time, without a second copy of them.

safetensors files and torch's zip files are mapped into memory: a tensor that nobody touches is
never read. Pickles are read by torch's own reader of plain weights, which runs no code.
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
from .inspect import ModelHeader, read_header
from .pickles import COMPRESSED

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory")


class WeightFile(Mapping[str, Tensor]):
    """An open model file: tensors by name, each read when it is asked for.

    Tensors outlive the file's closing. They share their memory with the file, so changing one in
    place changes a private copy of its pages, never the file.

    Attributes:
        path: where it is.
        header: its table of contents.
        shapes: the shape of each tensor.
    """

    def __init__(self, path: Path, header: ModelHeader, opened: Any):
        self.path = path
        self.header = header
        self.shapes = {name: info.shape for name, info in header.tensors.items()}
        self._opened = opened

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.header.tensors:
            raise KeyError(name)
        with translate_read_errors(self.path):
            if isinstance(self._opened, dict):
                return self._opened[name]
            return self._opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def __len__(self) -> int:
        return len(self.header.tensors)


@contextmanager
def open_weights(path: Path | str) -> Iterator[WeightFile]:
    """Opens a .safetensors, .ckpt, .pth, .pt or .bin file.

    Raises:
        InputError: the file is cut short, damaged, no model at all, or a pickle that asks to run
            code; says which, and what to do. Also if memory runs out.
    """
    path = Path(path)
    header = read_header(path)
    if not header.tensors:
        raise InputError(
            f"{path} holds no tensors that could be read: "
            + (shorten(" ".join(header.notes)) or "it is empty."),
            "Take a .safetensors version of the model.",
        )
    if header.format != "safetensors":
        yield WeightFile(path, header, _read_pickle(path, header))
        return
    from safetensors import safe_open

    with translate_read_errors(path):
        opened = safe_open(str(path), framework="pt", device="cpu")
    with opened:
        yield WeightFile(path, header, opened)


def _read_pickle(path: Path, header: ModelHeader) -> dict[str, Tensor]:
    """The table of weights of a PyTorch file, mapped into memory where its format allows."""
    if COMPRESSED in header.notes:
        raise InputError(
            f"{path} is a PyTorch file whose content is compressed, which cannot be mapped.",
            "Load and save it with torch, or download it again.",
        )
    mapped = {"mmap": True} if header.format == "torch_zip" else {}
    with translate_read_errors(path):
        try:
            made = torch.load(path, map_location="cpu", weights_only=True, **mapped)
        except pickle.UnpicklingError as error:
            asked = [remark for remark in header.notes if remark.startswith("Names code")]
            raise InputError(
                f"{path} asks to run code while it is read, so it was not read. "
                + (asked[0] if asked else "It holds more than plain weights."),
                "Take a .safetensors version of the model, or one from a source that you trust.",
            ) from error
        for key in header.root.split(".") if header.root else ():
            made = made[key]
        found = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        for name, info in header.tensors.items():
            if tuple(found[name].shape) != info.shape:
                raise TypeError(f"tensor {quote_value(name)} has another shape than its header says")
    return found


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Turns what readers raise on damaged files, or without memory, into one clear line.

    torch's and safetensors' readers raise whatever comes up on bytes that they do not expect:
    assertions, lookups, decoding errors.
    """
    try:
        yield
    except MemoryError as error:
        raise _no_memory(path) from error
    except OSError as error:
        if is_out_of_memory(error):
            raise _no_memory(path) from error
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Nova3DError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or any(text in str(error).lower() for text in _OUT_OF_MEMORY):
            raise _no_memory(path) from error
        log.debug("reading %s failed", path, exc_info=True)
        raise InputError(
            f"{path} is not a readable checkpoint: it is damaged or cut off.", "Download it again."
        ) from error


def _no_memory(path: Path) -> InputError:
    return InputError(
        f"{path} does not fit into memory.",
        "Close other programs, load it as float16 or bfloat16, or use a smaller model.",
    )
