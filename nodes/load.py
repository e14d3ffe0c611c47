"""Multi-view models from the host's model folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, schema
from .folders import problem_with, state_of
from .models import model_names, model_path, places, register_folder
from .runtime import explained, with_warnings, working
from .sockets import MODEL, Parcel

if TYPE_CHECKING:
    from ..nova3d_core.progress import Progress
    from .model_management import HostedModel

register_folder()

AUTO = "auto"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Number formats: the words of ComfyUI, and torch's."""


class LoadNOVA3D(io.ComfyNode):
    """A multi-view model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LoadNOVA3D",
            display_name="Load Multi-View Model (NOVA3D)",
            category=f"{CATEGORY}/views",
            description=(
                "Loads a model that paints an object from all sides: the small nova3d-mini, "
                "built in, or NOVA3D, SV3D (u or p) or V3D. Put their files into ComfyUI's "
                "models/checkpoints or models/nova3d. Every file there is told by its contents, "
                "whatever its name; other models are not offered."
            ),
            search_aliases=["sv3d", "v3d", "svd", "multiview model", "checkpoint loader"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_names(),
                    tooltip=(
                        "nova3d-mini, built in, for simple synthetic objects; or a file of "
                        "models/nova3d, models/checkpoints or models/diffusion_models that holds "
                        "such a model. The help page says where to get one."
                    ),
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AUTO, *DTYPES],
                    default=AUTO,
                    tooltip=(
                        "Number format of the weights. auto: what ComfyUI takes for your device; "
                        "fp16 and bf16 halve the memory of fp32."
                    ),
                ),
            ],
            outputs=[
                MODEL.Output(
                    display_name="model",
                    tooltip="For Sample Multi-View Normals (NOVA3D) or Sample Orbit (SV3D, V3D).",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None) -> bool | str:
        return problem_with(model_path, model)

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str) -> str:
        with explained():
            return f"{dtype}\n{state_of(model_path(model))}"

    @classmethod
    @with_warnings
    def execute(cls, model: str, dtype: str) -> io.NodeOutput:
        with working() as work:
            loaded = load_hosted(model_path(model), dtype, work.progress)
            return io.NodeOutput(Parcel(loaded, *loaded.patchers.values()))


def load_hosted(path: Path, dtype: str, progress: Progress) -> HostedModel:
    """Loads a model and puts it under the host's management.

    Args:
        path: its file.
        dtype: AUTO or a key of DTYPES.
        progress: told of each tensor.

    Raises:
        InputError: the file is no such model, and what it is instead.
    """
    import torch

    from ..nova3d_core.weights.discovery.locate import look_at
    from ..nova3d_core.weights.load import load_model
    from .model_management import (
        compute_dtype,
        host_attention,
        host_operations,
        hosted,
        other_dtypes,
        unet_dtype,
    )

    found = look_at(path)
    own = getattr(torch, found.identity.dtype, torch.float32) if found.identity else torch.float32
    wanted = None if dtype == AUTO else getattr(torch, DTYPES[dtype])
    weights = unet_dtype(wanted, own, found.bytes // own.itemsize)
    model = load_model(
        path,
        dtype=weights,
        folders=places(),
        operations=host_operations(),
        attention=host_attention,
        progress=progress,
    )
    for part, format_ in other_dtypes().items():
        model.part(part).to(format_)
    return hosted(model, compute_dtype(weights))


NODES = [LoadNOVA3D]
