"""Loads a model: told from its header, checked before it is read, never held twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from ..compute.host_memory import available_bytes, check_memory
from ..diffusion.families import FAMILIES, Family
from ..diffusion.model import Codec, ImageEncoder, MultiviewModel
from ..diffusion.network import operations as plain_operations
from ..diffusion.network.attention import Attend
from ..diffusion.network.unet import VideoUNet
from ..errors import InputError
from ..progress import SILENT, Progress
from .build.components import (
    check_context,
    check_latents,
    codec_component,
    image_encoder_component,
    unet_component,
)
from .build.load_state import COMPUTE_DTYPES, NetworkComponent, component_bytes, fill
from .discovery.companions import find_companion, resolve_unet_file
from .discovery.layouts import Identity
from .discovery.locate import describe, inspect_file
from .discovery.registry import IMAGE_ENCODER, PIXEL_CODEC, SMALL_ENCODER, UNET, VAE
from .files.read import WeightFile, open_weights

log = logging.getLogger(__name__)

STAGE = "loading the model"
_ALTERNATIVE_PART = {VAE: PIXEL_CODEC, IMAGE_ENCODER: SMALL_ENCODER}
"""What a file may hold in the place of a part, so that nobody lends it that part."""
_LISTS_THEM = "`python -m nova3d_core models` lists the known ones."


@dataclass(frozen=True)
class LoadedUNet:
    """A UNet, and what its file is; for training, which starts from any of them."""

    unet: VideoUNet
    identity: Identity


def load_model(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    folders: Sequence[Path | str] = (),
    operations: ModuleType | type = plain_operations,
    attention: Attend | None = None,
    progress: Progress = SILENT,
) -> MultiviewModel:
    """Loads a model that paints views around an object, on the CPU.

    Args:
        path: a checkpoint, the UNet's file of a model in the diffusers layout, or its folder; or
            "nova3d-mini" for the model that ships with this package.
        dtype: the weights' number format; the file's if None. Each tensor is brought to it alone.
        folders: where to look for a VAE or image encoder that the file lacks;
            `locate.default_folders()` if empty.
        operations: where the UNet's layers come from.
        attention: what computes the UNet's attention; torch's own kernels if None.
        progress: reports each tensor; a cancel takes effect at the next one.

    Returns:
        The model. Weights in the file's own number format are mapped from the file, not copied.

    Raises:
        InputError: the file is no such model (and what it is instead), is damaged or incomplete,
            holds NaN, asks to run code, or does not fit into memory; or a part is nowhere.
        Cancelled: the user asked to stop.
    """
    path = resolve_unet_file(path)
    check_dtype(dtype)
    identity = _identity(path)
    family = _family(path, identity)
    parts = _parts(path, identity, dtype, folders, operations, attention, progress)
    return MultiviewModel(family, *(part.module for part in parts), str(path))


def load_svd(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    folders: Sequence[Path | str] = (),
    progress: Progress = SILENT,
) -> tuple[VideoUNet, Codec, ImageEncoder]:
    """Loads base SVD, which paints no orbit and is what NOVA3D's training starts from.

    Takes and raises what `load_model` does; a file of another family is an InputError.

    Returns:
        Its network, its codec and its image encoder.
    """
    path = resolve_unet_file(path)
    check_dtype(dtype)
    identity = _identity(path)
    _refuse_what_has_no_unet(path, identity)
    if identity.family != "svd":
        raise InputError(f"{path} is no base SVD, but {describe(identity)}.")
    parts = _parts(path, identity, dtype, folders, plain_operations, None, progress)
    unet, codec, encoder = (part.module for part in parts)
    return unet, codec, encoder


def _parts(
    path: Path,
    identity: Identity,
    dtype: torch.dtype | None,
    folders: Sequence[Path | str],
    operations: ModuleType | type,
    attention: Attend | None,
    progress: Progress,
) -> tuple[NetworkComponent, NetworkComponent, NetworkComponent]:
    """UNet, codec and image encoder of a file, or lent by others, with their weights."""
    with ExitStack() as opened:
        own = opened.enter_context(open_weights(path))
        unet = unet_component(own, identity, operations, attention)
        codec = codec_component(_holder(own, identity, VAE, folders, progress, opened))
        encoder = image_encoder_component(
            _holder(own, identity, IMAGE_ENCODER, folders, progress, opened)
        )
        check_latents(unet.module, codec)
        check_context(unet.module, encoder)
        _fill_all([unet, codec, encoder], dtype, progress)
    for part in (codec, encoder):
        _one_dtype(part)
    return unet, codec, encoder


def load_unet(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    operations: ModuleType | type = plain_operations,
    attention: Attend | None = None,
    progress: Progress = SILENT,
) -> LoadedUNet:
    """Loads the UNet alone, of SVD too; see `load_model`."""
    path = resolve_unet_file(path)
    check_dtype(dtype)
    identity = _identity(path)
    _refuse_what_has_no_unet(path, identity)
    with open_weights(path) as own:
        part = unet_component(own, identity, operations, attention)
        _fill_all([part], dtype, progress)
    return LoadedUNet(part.module, identity)


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises InputError if weights cannot be kept in the number format."""
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        allowed = ", ".join(str(each).removeprefix("torch.") for each in COMPUTE_DTYPES)
        raise InputError(f"weights cannot be loaded as {dtype}, expected one of {allowed}.")


def _identity(path: Path) -> Identity:
    """What the file is, its name included where contents do not tell."""
    found = inspect_file(path)
    if found.identity is None:
        raise InputError(found.problem or f"{path} cannot be read.")
    return found.identity


def _refuse_what_has_no_unet(path: Path, identity: Identity) -> None:
    if identity.family == "unknown":
        why = " ".join(identity.notes)
        raise InputError(f"{path} is no multi-view model. {why}".strip(), _LISTS_THEM)
    if identity.family == "ouroboros3d":
        raise InputError(
            f"{path} is Ouroboros3D, which cannot be run yet: it needs its reconstruction model "
            "in the loop.",
            "Its support comes later; take NOVA3D, SV3D or V3D.",
        )
    if UNET not in identity.parts:
        raise InputError(
            f"{path} holds no UNet: {describe(identity)}.", f"Name the UNet's file; {_LISTS_THEM}"
        )


def _family(path: Path, identity: Identity) -> Family:
    """How the model is sampled.

    Raises:
        InputError: it cannot be; says what the file is and what to do.
    """
    _refuse_what_has_no_unet(path, identity)
    if identity.family == "svd":
        raise InputError(
            f"{path} is base Stable Video Diffusion: it paints a video from an image and was "
            "never taught to walk around an object or to paint normals.",
            "Train NOVA3D from it, or load SV3D or V3D for views in colour. (V3D's UNet looks the "
            "same: its file must be named V3D.)",
        )
    return FAMILIES[identity.family]


def _holder(
    own: WeightFile,
    identity: Identity,
    part: str,
    folders: Sequence[Path | str],
    progress: Progress,
    opened: ExitStack,
) -> WeightFile:
    """The open file that holds a part: the model's own, or another one."""
    if part in identity.parts or _ALTERNATIVE_PART[part] in identity.parts:
        return own
    elsewhere = find_companion(own.path, part, folders, progress)
    log.info("%s lends its %s to %s", elsewhere, part.replace("_", " "), own.path)
    return opened.enter_context(open_weights(elsewhere))


def _fill_all(parts: list[NetworkComponent], dtype: torch.dtype | None, progress: Progress) -> None:
    needed = sum(component_bytes(part, dtype) for part in parts)
    check_memory(str(parts[0].file.path), needed, available_bytes())
    total, done = sum(len(part.key_map) for part in parts), 0

    def each() -> None:
        nonlocal done
        done += 1
        progress.update(STAGE, done, total)

    progress.update(STAGE, 0, total)
    for part in parts:
        fill(part, dtype, each)


def _one_dtype(part: NetworkComponent) -> None:
    """Brings a part to its main number format: plain layers cannot compute in several."""
    counts: dict[torch.dtype, int] = {}
    for weight in part.module.parameters():
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    if len(counts) > 1:
        part.module.to(max(counts, key=lambda dtype: counts[dtype]))
