"""Loads Ouroboros3D's pair of files: the multi-view model, and its reconstruction model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from ..diffusion.network import operations as plain_operations
from ..diffusion.network.attention import Attend
from ..diffusion.network.config import CoordinateKind
from ..errors import InputError
from ..progress import SILENT, Progress
from ..reconstruction.load import (
    identify_reconstruction,
    load_reconstruction,
    reconstruction_component,
)
from ..weights.build.load_state import component_bytes
from ..weights.discovery.companions import resolve_unet_file
from ..weights.discovery.layouts import Identity
from ..weights.discovery.locate import FoundFile, default_folders, find_models, inspect_file
from ..weights.discovery.registry import RECONSTRUCTION, UNET
from ..weights.files.inspect import is_model_name, read_header
from ..weights.files.read import open_weights
from ..weights.infer_shapes import nova3d_metadata
from ..weights.load import check_has_feedback_unet, load_model
from .model import RecursiveModel

FAMILY = "ouroboros3d"
PUBLISHED_NAME = "recon_model"
"""Stem of the published reconstruction model."""


def is_recursive(path: Path | str) -> bool:
    """Whether a file is the multi-view model of such a pair."""
    return generates_feedback_views(inspect_file(resolve_unet_file(path)).identity)


def generates_feedback_views(identity: Identity | None) -> bool:
    """`is_recursive` of a file whose contents are known."""
    return identity is not None and identity.family == FAMILY and UNET in identity.parts


def load_recursive(
    path: Path | str,
    reconstruction: Path | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    folders: Sequence[Path | str] = (),
    operations: ModuleType | type = plain_operations,
    attention: Attend | None = None,
    progress: Progress = SILENT,
) -> RecursiveModel:
    """Loads a pair onto the CPU.

    Args:
        path: Ouroboros3D's mv_model_unet.pth, or a copy of it in another format or dtype.
        reconstruction: the other file; None: the one in the same folder or in the model folders.
        dtype: of the weights; the files' if None.
        folders: searched for the reconstruction model, VAE and image encoder, which are SVD's;
            `locate.default_folders()` if empty.
        operations: namespace of layer classes of both networks.
        attention: attention function of both networks.
        progress: reports each tensor; a cancellation takes effect at the next one.

    Raises:
        InputError: a file is another model, which the message names, is damaged or incomplete,
            holds NaN, would run code; or a file is missing, or they do not fit into memory
            together.
        Cancelled: the user cancelled.
    """
    path = resolve_unet_file(path)
    check_has_feedback_unet(path)  # before the search for the other file
    other = (
        find_reconstruction(path, folders, progress) if reconstruction is None else reconstruction
    )
    settings = {
        "dtype": dtype, "operations": operations, "attention": attention, "progress": progress
    }  # fmt: skip
    needed = _reconstruction_bytes(Path(other), dtype)
    views = load_model(path, folders=folders, with_feedback=True, reserve_bytes=needed, **settings)
    own = load_reconstruction(other, **settings)
    return RecursiveModel(**vars(views), reconstruction=own, coordinates=coordinate_kind(path))


def coordinate_kind(path: Path) -> CoordinateKind:
    """The coordinate maps that the multi-view model of a pair was trained with."""
    metadata = nova3d_metadata(read_header(path).metadata, str(path))
    return "true" if metadata.get("coordinates") == "true" else "released"


def find_reconstruction(
    path: Path, folders: Sequence[Path | str] = (), progress: Progress = SILENT
) -> Path:
    """Finds the reconstruction model of a pair: next to the multi-view model, else in the folders.

    Args:
        path: of the multi-view model.
        folders: of models; `locate.default_folders()` if empty.
        progress: reports each inspected file.

    Raises:
        InputError: there is none; says which file to put where.
        Cancelled: the user cancelled.
    """
    names = (name for name in os.listdir(path.parent) if is_model_name(name))
    siblings = [inspect_file(path.parent / name) for name in sorted(names)]
    candidates = _candidates(siblings, path)
    searched = default_folders(folders)
    if not candidates and searched:
        candidates = _candidates(find_models(searched, progress), path)
    if candidates:
        return candidates[0]
    damaged = [
        file.problem for file in siblings if file.problem and PUBLISHED_NAME in file.path.name
    ]
    elsewhere = "".join(f" or below {folder}" for folder in searched)
    raise InputError(
        f"{path} needs its reconstruction model, and none was found next to it{elsewhere}."
        + "".join(f" {problem}" for problem in damaged[:1]),
        "Put recon_model.pth of huanngzh/Ouroboros3D-SVD-LGM (Hugging Face) next to it; LGM's own "
        "files do not fit.",
    )


def _candidates(files: Sequence[FoundFile], path: Path) -> list[Path]:
    """Reconstruction models of the family: of the same name first, then of the published one."""
    found = [
        file.path
        for file in files
        if file.identity is not None
        and file.identity.family == FAMILY
        and RECONSTRUCTION in file.identity.parts
    ]

    def rank(candidate: Path) -> tuple[bool, bool, str]:
        has_its_name = candidate.stem.startswith(path.stem)  # NAME and NAME.reconstruction
        is_published = candidate.stem.startswith(PUBLISHED_NAME)
        return (not has_its_name, not is_published, candidate.name)

    return sorted(found, key=rank)


def _reconstruction_bytes(path: Path, dtype: torch.dtype | None) -> int:
    """Memory of the reconstruction model's weights.

    Raises:
        InputError: the file is another model, or its network is not conditioned on the noise level.
    """
    identify_reconstruction(path)
    with open_weights(path) as file:
        component = reconstruction_component(file)
        if not component.module.config.time_channels:
            raise InputError(
                f"{path} is LGM, whose network is not conditioned on the noise level.",
                "Use Ouroboros3D's recon_model.pth.",
            )
        return component_bytes(component, dtype)
