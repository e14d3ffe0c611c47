"""Node that loads a multi-view or reconstruction model from ComfyUI's model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, schema
from .folders import file_fingerprint, validation_result
from .model_files import (
    list_models,
    model_path,
    model_search_folders,
    register_folder,
    supported_model,
)
from .runtime import host_errors, node_context, with_warnings
from .sockets import MODEL, SocketBundle

if TYPE_CHECKING:
    from ..nova3d_core.progress import Progress
    from .model_management import ManagedModel

register_folder()

AUTO = "auto"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""ComfyUI's dtype names -> PyTorch's."""


class LoadNOVA3D(io.ComfyNode):
    """Loads a multi-view model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LoadNOVA3D",
            display_name="Load Multi-View Model (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Loads a multi-view diffusion model: the small built-in nova3d-mini, or a "
                "checkpoint of NOVA3D, Wonder3D (or Wonder3D++), SV3D (u or p), V3D or "
                "Ouroboros3D (mv_model_unet, with recon_model next to it). Also loads "
                "LGM and recon_model alone, which make splats of views. Put "
                "checkpoints into ComfyUI's models/checkpoints or models/nova3d, and Wonder3D's "
                "whole folder into models/nova3d. Models are detected from the file contents, not "
                "from the file name; other models are not listed."
            ),
            search_aliases=[
                "sv3d",
                "v3d",
                "svd",
                "wonder3d",
                "multiview model",
                "checkpoint loader",
                "lgm",
                "ouroboros3d",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list_models(),
                    tooltip=(
                        "The built-in nova3d-mini, for simple synthetic objects, or a multi-view "
                        "checkpoint in models/nova3d, models/checkpoints or "
                        "models/diffusion_models. See the help page for downloads."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *DTYPES],
                    default=AUTO,
                    tooltip=(
                        "Precision of the weights. auto: ComfyUI's choice for your device; fp16 "
                        "and bf16 use half the memory of fp32."
                    ),
                ),
            ],
            outputs=[
                MODEL.Output(
                    display_name="model",
                    tooltip=(
                        "Model for Sample Multi-View Normals (NOVA3D, Wonder3D), Sample Orbit "
                        "(SV3D, V3D), Sample Recursive (Ouroboros3D's mv_model_unet), Sample "
                        "Camera Path (models for scenes) or Splats from Views (LGM, Ouroboros3D's "
                        "recon_model)."
                    ),
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None) -> bool | str:
        return validation_result(model_path, model)

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str) -> str:
        with host_errors():
            return "\n".join([dtype, *map(file_fingerprint, _files(model_path(model)))])

    @classmethod
    @with_warnings
    def execute(cls, model: str, dtype: str) -> io.NodeOutput:
        with node_context() as context:
            managed = load_managed_model(model_path(model), dtype, context.progress)
            return io.NodeOutput(SocketBundle(managed, *managed.patchers.values()))


def _files(path: Path) -> list[Path]:
    """The file of a model, and that of Ouroboros3D's reconstruction model."""
    from ..nova3d_core.recursion.load import find_reconstruction, generates_feedback_views

    if not generates_feedback_views(supported_model(path)):
        return [path]
    return [path, find_reconstruction(path, model_search_folders())]


def load_managed_model(path: Path, dtype: str, progress: Progress) -> ManagedModel:
    """Loads a model and registers it with ComfyUI's model management.

    Args:
        path: checkpoint.
        dtype: AUTO or a key of DTYPES.
        progress: updated for each tensor.

    Raises:
        InputError: the file is no supported model; the message says what it is.
    """
    import torch

    from ..nova3d_core.diffusion.model import CODEC, IMAGE_ENCODER
    from ..nova3d_core.reconstruction.config import RECONSTRUCTION
    from ..nova3d_core.reconstruction.load import load_reconstruction
    from ..nova3d_core.recursion.load import generates_feedback_views, load_recursive
    from ..nova3d_core.weights.discovery.locate import inspect_file
    from ..nova3d_core.weights.load import load_model
    from .model_management import (
        compute_dtype,
        host_attention,
        host_operations,
        manage_model,
        manage_reconstruction,
        plain_part_dtypes,
        unet_dtype,
    )

    file = inspect_file(path)
    identity = file.identity
    file_dtype = getattr(torch, identity.dtype, torch.float32) if identity else torch.float32
    requested = None if dtype == AUTO else getattr(torch, DTYPES[dtype])
    weight_dtype = unet_dtype(requested, file_dtype, file.bytes // file_dtype.itemsize)
    settings = {
        "dtype": weight_dtype,
        "operations": host_operations(),
        "attention": host_attention,
        "progress": progress,
    }
    if identity is not None and RECONSTRUCTION in identity.parts:
        reconstruction = load_reconstruction(path, **settings)
        return manage_reconstruction(reconstruction, compute_dtype(weight_dtype))
    load = load_recursive if generates_feedback_views(identity) else load_model
    model = load(path, folders=model_search_folders(), **settings)
    dtypes = plain_part_dtypes()
    # the one image that conditions the model is encoded in float32
    model.codec = model.codec.cast(encode=torch.float32, decode=dtypes[CODEC])
    model.image_encoder.to(dtypes[IMAGE_ENCODER])
    return manage_model(model, compute_dtype(weight_dtype))


NODES = [LoadNOVA3D]
