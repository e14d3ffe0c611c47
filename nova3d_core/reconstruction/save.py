"""Saves a reconstruction model as one file, with the keys of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

from ..progress import SILENT, Progress
from ..weights.discovery.layouts import METADATA_KEY
from ..weights.files.write import TensorEntry, write_model_file
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
    config = network.config
    sizes = {"num_heads": config.num_heads, "norm_num_groups": config.norm_num_groups}
    own_size = {} if size_px is None else {"size_px": size_px}
    metadata = {METADATA_KEY: json.dumps({RECONSTRUCTION: sizes | own_size, "note": note})}
    entries = [
        TensorEntry(name, value.dtype, tuple(value.shape), value.detach)
        for name, value in network.state_dict().items()
    ]
    write_model_file(
        Path(path), entries, metadata, overwrite=overwrite, stage=STAGE, progress=progress
    )
