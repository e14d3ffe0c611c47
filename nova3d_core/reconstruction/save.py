"""Saves a reconstruction model as one file, with the keys of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import InputError
from ..io.files.atomic import atomic_file
from ..io.files.ownership import reject_foreign_file
from ..progress import SILENT, Progress
from ..weights.discovery.layouts import METADATA_KEY
from ..weights.files.write import safetensors_header
from .config import RECONSTRUCTION
from .network import Lgm

STAGE = "saving the reconstruction model"


def save_reconstruction(
    network: Lgm,
    path: Path | str,
    *,
    size_px: int | None = None,
    note: str = "",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Saves the network as a .safetensors file that `load_reconstruction` reads back bit for bit.

    Args:
        network: with or without time embedding.
        path: of the file, which is written atomically.
        size_px: size of the images that it was trained on; the family's if None.
        note: provenance for the metadata.
        overwrite: replace an existing file.
        progress: reports each tensor; a cancellation takes effect at the next one.

    Raises:
        InputError: the file exists, cannot be written, the disk is full, or the name does not
            end in .safetensors.
        Cancelled: the user cancelled; no file is left behind.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors to be saved as a model.")
    config = network.config
    sizes = {"num_heads": config.num_heads, "norm_num_groups": config.norm_num_groups}
    own_size = {} if size_px is None else {"size_px": size_px}
    entry = json.dumps({RECONSTRUCTION: sizes | own_size, "note": note})
    tensors = sorted(network.state_dict().items(), key=lambda item: -item[1].dtype.itemsize)
    listed = [(name, value.dtype, tuple(value.shape)) for name, value in tensors]
    header = safetensors_header(listed, {METADATA_KEY: entry, "format": "pt"})
    with atomic_file(path, overwrite) as part:
        with part.open("wb") as stream:
            stream.write(header)
            for _, value in progress.track(tensors, STAGE, len(tensors)):
                flat = value.detach().cpu().contiguous().flatten()
                stream.write(memoryview(flat.view(torch.uint8).numpy()))
        reject_foreign_file(path.resolve())
