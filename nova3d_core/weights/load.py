"""Loads a model: identified by its header, checked before it is read, without a second copy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from ..compute.host_memory import available_bytes, check_memory
from ..diffusion.codecs.vae import ENCODER_MODULES
from ..diffusion.families import FAMILIES, SCENE_FAMILY, Family
from ..diffusion.model import Codec, ImageEncoder, MultiviewModel
from ..diffusion.network import operations as plain_operations
from ..diffusion.network.attention import Attend
from ..diffusion.network.unet import VideoUNet
from ..errors import InputError
from ..progress import SILENT, Progress
from ..wording import by_interface, setting
from .build.components import (
    check_context,
    check_latents,
    codec_component,
    image_encoder_component,
    unet_component,
)
from .build.load_state import COMPUTE_DTYPES, NetworkComponent, component_bytes, load_state
from .build.scene_components import conditioner_component, feature_channels, scene_model
from .discovery.companions import find_companion, find_folder_companion, resolve_unet_file
from .discovery.estimators import is_normalcrafter
from .discovery.layouts import Identity
from .discovery.layouts_2d import FAMILY_BY_CLASS_DIM
from .discovery.locate import describe, inspect_file
from .discovery.registry import (
    CONDITIONER,
    IMAGE_ENCODER,
    PIXEL_CODEC,
    RECONSTRUCTION,
    RECONSTRUCTION_MODELS,
    SMALL_ENCODER,
    UNET,
    VAE,
)
from .files.inspect import read_header
from .files.read import WeightFile, open_weights
from .infer_shapes import nova3d_metadata

log = logging.getLogger(__name__)

STAGE = "loading the model"
MAX_TRAINED_PX = 2048
"""Larger sizes in a file's metadata are ignored."""
_ALTERNATIVE_PART = {VAE: PIXEL_CODEC, IMAGE_ENCODER: SMALL_ENCODER}
"""The part that replaces another one in small models, which then need no companion file."""
_LIST_MODELS = "`python -m nova3d_core models` lists the supported ones."


def load_model(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    folders: Sequence[Path | str] = (),
    operations: ModuleType | type = plain_operations,
    attention: Attend | None = None,
    progress: Progress = SILENT,
    with_feedback: bool = False,
    reserve_bytes: int = 0,
) -> MultiviewModel:
    """Loads a multi-view model onto the CPU.

    Args:
        path: a checkpoint, the UNet's file of a model in the diffusers layout, or its folder; or
            "nova3d-mini" for the model that ships with this package.
        dtype: of the weights; the file's if None. Tensors are cast one at a time.
        folders: searched for a VAE or image encoder that the file does not contain;
            `locate.default_folders()` if empty.
        operations: namespace of layer classes for the UNet.
        attention: the UNet's attention function; torch's scaled_dot_product_attention if None.
        progress: reports each tensor; a cancellation takes effect at the next one.
        with_feedback: load Ouroboros3D's UNet, which `recursion.sample` runs, and no other.
        reserve_bytes: memory that must be left for another model.

    Returns:
        The model; a `SceneModel` if the file has a conditioner. Weights that keep the file's dtype
        are memory-mapped, not copied.

    Raises:
        InputError: the file is another kind of model, is damaged or incomplete, holds NaN, would
            run code, or does not fit into memory; or a part was not found.
        Cancelled: the user cancelled.
    """
    path = resolve_unet_file(path)
    check_dtype(dtype)
    identity = _identify_file(path)
    family = _with_own_size(_sampling_family(path, identity, with_feedback), path)
    components = _load_components(
        path,
        identity,
        dtype,
        folders,
        operations,
        attention,
        progress,
        exact_encoder=True,
        reserve_bytes=reserve_bytes,
    )
    if CONDITIONER in identity.parts:
        return scene_model(components)
    return MultiviewModel(family, *(component.module for component in components), str(path))


def load_svd(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    folders: Sequence[Path | str] = (),
    progress: Progress = SILENT,
) -> tuple[VideoUNet, Codec, ImageEncoder]:
    """Loads base SVD, the video model that the training of NOVA3D starts from.

    Arguments and exceptions are those of `load_model`; another family is an InputError.

    Returns:
        UNet, codec and image encoder.
    """
    path = resolve_unet_file(path)
    check_dtype(dtype)
    identity = _identify_file(path)
    _check_has_unet(path, identity)
    if identity.family != "svd":
        raise InputError(f"{path} is not a base SVD model: {describe(identity)}.")
    components = _load_components(path, identity, dtype, folders, plain_operations, None, progress)
    unet, codec, encoder = (component.module for component in components)
    return unet, codec, encoder


def _load_components(
    path: Path,
    identity: Identity,
    dtype: torch.dtype | None,
    folders: Sequence[Path | str],
    operations: ModuleType | type,
    attention: Attend | None,
    progress: Progress,
    exact_encoder: bool = False,
    reserve_bytes: int = 0,
) -> tuple[NetworkComponent, ...]:
    """UNet, codec and image encoder with their weights, from the file or its companion files.

    A model for scenes has a fourth component, the conditioner.

    With `exact_encoder`, the encoder of a VAE keeps the file's dtype: it encodes one image, whose
    rounding errors affect all views.
    """
    with ExitStack() as stack:
        own = stack.enter_context(open_weights(path))
        unet = unet_component(own, identity, operations, attention)
        codec = codec_component(_open_part(own, identity, VAE, folders, progress, stack))
        encoder = image_encoder_component(
            _open_part(own, identity, IMAGE_ENCODER, folders, progress, stack), identity.family
        )
        scene = [conditioner_component(own)] if CONDITIONER in identity.parts else []
        if exact_encoder:
            codec.exact_prefixes = ENCODER_MODULES
        check_latents(unet.module, codec, feature_channels(scene))
        check_context(unet.module, encoder)
        _load_weights([unet, codec, encoder, *scene], dtype, progress, reserve_bytes)
    for component in (codec, encoder):
        _unify_dtype(component)
    return unet, codec, encoder, *scene


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises InputError if weights cannot be kept in this dtype."""
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        allowed = ", ".join(str(each).removeprefix("torch.") for each in COMPUTE_DTYPES)
        raise InputError(f"weights cannot be loaded as {dtype}, expected one of {allowed}.")


def _identify_file(path: Path) -> Identity:
    """Identifies the file by its contents, and by its name where contents are ambiguous."""
    found = inspect_file(path)
    if found.identity is None:
        raise InputError(found.problem or f"{path} cannot be read.")
    return found.identity


def check_has_feedback_unet(path: Path) -> None:
    """Raises InputError unless the file is Ouroboros3D's multi-view model; says what it is."""
    _check_has_unet(path, _identify_file(path), with_feedback=True)


def _check_has_unet(path: Path, identity: Identity, with_feedback: bool = False) -> None:
    """Raises InputError unless the file holds a UNet that this package can run."""
    if identity.family == "unknown":
        why = " ".join(identity.notes)
        raise InputError(f"{path} is not a multi-view model. {why}".strip(), _LIST_MODELS)
    if RECONSTRUCTION in identity.parts:
        pair = ""
        if identity.family == "ouroboros3d":
            pair = " To generate views, use the other file of the pair, mv_model_unet.pth."
        raise InputError(
            f"{path} is {RECONSTRUCTION_MODELS[identity.family]}, which generates no views: it "
            "makes Gaussian splats of views.",
            by_interface(
                f"Use `splats` with {setting('model')}.",
                "Connect its model to Splats from Views.",
            )
            + pair,
        )
    if UNET not in identity.parts:
        raise InputError(
            " ".join((f"{path} has no UNet: {describe(identity)}.", *identity.notes)),
            f"Pass the UNet's file; {_LIST_MODELS}",
        )
    _check_feedback(path, identity, with_feedback)


def _check_feedback(path: Path, identity: Identity, with_feedback: bool) -> None:
    """Raises InputError unless the UNet takes feedback where that is needed, and only there."""
    is_recursive = identity.family == "ouroboros3d"
    if with_feedback and not is_recursive:
        raise InputError(
            f"{path} is {describe(identity)}, not Ouroboros3D's multi-view model.",
            "Use mv_model_unet.pth of huanngzh/Ouroboros3D-SVD-LGM (Hugging Face).",
        )
    if is_recursive and not with_feedback:
        raise InputError(
            f"{path} is Ouroboros3D, which is sampled together with its reconstruction model.",
            by_interface("Use `generate`.", "Use Sample Recursive."),
        )


def _sampling_family(path: Path, identity: Identity, with_feedback: bool = False) -> Family:
    """The family whose sampling settings the model uses.

    Raises:
        InputError: the model cannot be sampled; says what the file is and what to do.
    """
    _check_has_unet(path, identity, with_feedback)
    if identity.family == "svd":
        if is_normalcrafter(path):
            raise InputError(
                f"{path} is NormalCrafter, which estimates the normals of views and generates "
                "none.",
                by_interface(
                    f"Use `generate {setting('normals', 'normalcrafter')}`.",
                    "Use Estimate Normals.",
                ),
            )
        raise InputError(
            f"{path} is base Stable Video Diffusion: it generates a video from an image and was "
            "not trained to orbit an object or to generate normals.",
            "Train NOVA3D from it, or load SV3D or V3D for colour views. (The same keys have V3D, "
            "whose file must be named so, and NormalCrafter, for Estimate Normals.)",
        )
    return SCENE_FAMILY if CONDITIONER in identity.parts else FAMILIES[identity.family]


def _with_own_size(family: Family, path: Path) -> Family:
    """The family with the size of the images that the model of one of our files was trained on."""
    size_px = nova3d_metadata(read_header(path).metadata, str(path)).get("size_px")
    valid = type(size_px) is int and 8 <= size_px <= MAX_TRAINED_PX
    return replace(family, size_px=size_px) if valid and size_px != family.size_px else family


def _open_part(
    own: WeightFile,
    identity: Identity,
    part: str,
    folders: Sequence[Path | str],
    progress: Progress,
    stack: ExitStack,
) -> WeightFile:
    """Opens the file that holds a part: the model's own, or a companion file."""
    if part in identity.parts or _ALTERNATIVE_PART[part] in identity.parts:
        return own
    if identity.family in FAMILY_BY_CLASS_DIM.values():
        companion = find_folder_companion(own.path, part)
    else:
        companion = find_companion(own.path, part, folders, progress)
    log.info("%s of %s is read from %s", part.replace("_", " "), own.path, companion)
    return stack.enter_context(open_weights(companion))


def _load_weights(
    components: list[NetworkComponent],
    dtype: torch.dtype | None,
    progress: Progress,
    reserve_bytes: int = 0,
) -> None:
    """Checks that all weights fit into memory, then loads them, reporting each tensor."""
    required = reserve_bytes + sum(component_bytes(each, dtype) for each in components)
    check_memory(str(components[0].file.path), required, available_bytes())
    total, done = sum(len(component.key_map) for component in components), 0

    def on_tensor() -> None:
        nonlocal done
        done += 1
        progress.update(STAGE, done, total)

    progress.update(STAGE, 0, total)
    for component in components:
        load_state(component, dtype, on_tensor)


def _unify_dtype(component: NetworkComponent) -> None:
    """Casts a component to its most common dtype: plain layers cannot mix dtypes.

    Modules that keep the file's dtype are cast on their own.
    """
    exact = [getattr(component.target, name, None) for name in component.exact_prefixes]
    exact = [module for module in exact if module is not None]
    others = [component.module]
    if exact:
        others = [module for module in component.target.children() if module not in exact]
    for modules in (exact, others):
        _cast_to_most_common_dtype(modules)


def _cast_to_most_common_dtype(modules: Sequence[nn.Module]) -> None:
    counts: dict[torch.dtype, int] = {}
    for weight in (each for module in modules for each in module.parameters()):
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    if len(counts) > 1:
        for module in modules:
            module.to(max(counts, key=lambda dtype: counts[dtype]))
