"""Loads LGM's and Ouroboros3D's reconstruction models, identified by their headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from ..compute.host_memory import available_bytes, check_memory
from ..diffusion.network import operations as plain_operations
from ..diffusion.network.attention import Attend
from ..errors import InputError
from ..progress import SILENT, Progress
from ..weights.build.load_state import (
    NetworkComponent,
    check_component,
    component_bytes,
    load_state,
    unused_names,
)
from ..weights.discovery.layouts import Identity
from ..weights.discovery.locate import describe, inspect_file, matches_name
from ..weights.discovery.registry import PUBLISHED_FILES, RECONSTRUCTION, UNET
from ..weights.files.read import WeightFile, open_weights
from ..weights.infer_shapes import metadata_int, nova3d_metadata
from ..weights.keymaps.unet import TensorSource
from ..weights.load import STAGE, check_dtype
from .config import FAMILIES, ReconstructionFamily
from .infer import lgm_config
from .model import ReconstructionModel
from .network import Lgm

FIXED_MARKER = "fixrot"
"""Part of the names of LGM's files since the fix of its normalisation."""
_HINT = (
    "Use model_fp16_fixrot.safetensors of ashawkey/LGM, or recon_model.pth of "
    "huanngzh/Ouroboros3D-SVD-LGM (Hugging Face)."
)


def load_reconstruction(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    operations: ModuleType | type = plain_operations,
    attention: Attend | None = None,
    progress: Progress = SILENT,
) -> ReconstructionModel:
    """Loads a reconstruction model onto the CPU.

    Args:
        path: LGM's model_fp16_fixrot.safetensors or model_fp16.safetensors, Ouroboros3D's
            recon_model.pth, or a copy of them in another format or dtype.
        dtype: of the weights; the file's if None. Tensors are cast one at a time.
        operations: namespace of layer classes.
        attention: attention function; torch's scaled_dot_product_attention if None.
        progress: reports each tensor; a cancellation takes effect at the next one.

    Raises:
        InputError: the file is another model, which the message names, is damaged or incomplete,
            holds NaN, would run code, or does not fit into memory.
        Cancelled: the user cancelled.
    """
    path = Path(path)
    check_dtype(dtype)
    identity = identify_reconstruction(path)
    with open_weights(path) as file:
        component = reconstruction_component(file, operations, attention)
        check_memory(str(path), component_bytes(component, dtype), available_bytes())
        total, done = len(component.key_map), 0

        def on_tensor() -> None:
            nonlocal done
            done += 1
            progress.update(STAGE, done, total)

        progress.update(STAGE, 0, total)
        load_state(component, dtype, on_tensor)
    return ReconstructionModel(
        _family(identity, component),
        component.module,
        str(path),
        has_rotations(path, identity),
    )


def _family(identity: Identity, component: NetworkComponent) -> ReconstructionFamily:
    """The model's family, with the size of images that our own files state."""
    source = str(component.file.path)
    metadata = nova3d_metadata(component.file.header.metadata, source).get(RECONSTRUCTION, {})
    family = FAMILIES[identity.family]
    return replace(family, size_px=metadata_int(metadata, "size_px", family.size_px, source))


def identify_reconstruction(path: Path) -> Identity:
    """Identifies a file; raises InputError unless it is a reconstruction model."""
    found = inspect_file(path)
    if found.identity is None:
        raise InputError(found.problem or f"{path} cannot be read.")
    identity = found.identity
    if RECONSTRUCTION in identity.parts:
        return identity
    if identity.family == "ouroboros3d" and UNET in identity.parts:
        raise InputError(
            f"{path} is Ouroboros3D's multi-view model, not the reconstruction model of the pair.",
            "Use the other file, recon_model.pth.",
        )
    notes = " ".join(identity.notes) if identity.family == "unknown" else ""
    message = f"{path} is no reconstruction model: {describe(identity)}."
    raise InputError(f"{message} {notes}".strip(), _HINT)


def reconstruction_component(
    file: WeightFile,
    operations: ModuleType | type = plain_operations,
    attention: Attend | None = None,
) -> NetworkComponent:
    """The network of an open file, on the meta device, with the key map of its weights.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ.
    """
    source = str(file.path)
    metadata = nova3d_metadata(file.header.metadata, source).get(RECONSTRUCTION, {})
    config = lgm_config(file.shapes, metadata, source)
    network = Lgm(config, operations, attention, device="meta")
    key_map = {name: TensorSource(name) for name in network.state_dict()}
    unused = unused_names(file, ("unet.", "conv."), key_map)
    component = NetworkComponent("reconstruction model", network, network, file, key_map, unused)
    check_component(component)
    return component


def has_rotations(path: Path, identity: Identity) -> bool | None:
    """Whether the weights were trained with quaternions that are normalised one by one.

    Until April 2024 LGM normalised each component of the quaternions over all splats. Its
    rasteriser did not normalise them again, so their rotations were the identity. Ouroboros3D,
    which is known by its time layers, has kept that. LGM's files before and after the fix have the
    same header: only their names tell.

    Returns:
        None for a file of LGM under another name.
    """
    if identity.family == "ouroboros3d":
        return False
    if FIXED_MARKER in path.name.lower():
        return True
    old = [each for each in PUBLISHED_FILES if each.family == "lgm" and each.has_generic_name]
    return False if any(matches_name(path, each) for each in old) else None
