"""Node that completes the unseen parts of a texture with a multi-view model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..nova3d_core.completion.config import COMPLETION_METHODS, CompletionConfig
from .common_inputs import MAX_SEED, generated_size_input
from .compat import CATEGORY, mesh_or_file, schema
from .runtime import SAMPLING_MEMORY_HINT, node_context, with_warnings
from .sockets import MODEL, VIEWS

if TYPE_CHECKING:
    from torch import Tensor

    from ..nova3d_core.completion.complete import CompletionResult
    from ..nova3d_core.mesh import Mesh
    from ..nova3d_core.views import Views
    from .model_management import ManagedModel

_DEFAULTS = CompletionConfig()


def _inputs() -> list[io.Input]:
    return [
        mesh_or_file("mesh", tooltip="Mesh with a texture, from Bake Texture from Views."),
        VIEWS.Input(
            "views",
            tooltip=(
                "The views that the texture was baked from: what they do not show is completed. "
                "The first one shows the input image."
            ),
        ),
        MODEL.Input(
            "model",
            tooltip=(
                "SV3D p, whose orbits also pass above and below the object; NOVA3D, Wonder3D, "
                "SV3D u and V3D only complete what their own orbit shows."
            ),
        ),
        io.Combo.Input(
            "method", options=list(COMPLETION_METHODS), default=_DEFAULTS.method,
            tooltip=(
                "resample: add noise to renders of the mesh and denoise them, with the seen parts "
                "fixed; sds_pixels, sds_latents: score distillation on the texture, towards "
                "decoded images or through the encoder's gradient; much slower, SV3D p only."
            ),
        ),
        io.Int.Input(
            "orbits", default=_DEFAULTS.orbits, min=1, max=16,
            tooltip=(
                "resample: number of random orbits; each completes what those before it left."
            ),
        ),
        io.Int.Input(
            "steps", default=_DEFAULTS.steps, min=1, max=1000,
            tooltip="resample: denoising steps per orbit.",
        ),
        io.Float.Input(
            "start_noise", default=_DEFAULTS.start_noise, min=0.1, max=500.0, step=0.1,
            tooltip=(
                "resample: noise level at the start. 1: only add detail to the present texture; "
                "8: new content; higher values ignore the present texture."
            ),
        ),
        io.Int.Input(
            "iterations", default=_DEFAULTS.iterations, min=1, max=10_000,
            tooltip="sds_pixels, sds_latents: optimisation steps of the texture.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True,
            tooltip="Random seed of orbits and noise.",
        ),
        io.Image.Input(
            "image", optional=True,
            tooltip=(
                "Input image of the model, as for Sample Orbit. Default: the first of the views, "
                "which fits the texture where light was removed from the views."
            ),
        ),
        io.Mask.Input(
            "mask", optional=True, tooltip="Foreground mask of the image: 1 on the object."
        ),
        generated_size_input(optional=True),
    ]  # fmt: skip


class CompleteTexture(io.ComfyNode):
    """Generates the parts of a texture that no view has seen."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CompleteTexture",
            display_name="Complete Texture (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Generates the parts of a texture that no view has seen, such as tops and bottoms, "
                "with the multi-view model: renders of the mesh are partly replaced by what the "
                "model generates, and baked. The geometry does not change, and texels that the "
                "views see clearly stay as they are."
            ),
            search_aliases=["complete texture", "unseen texture", "texture inpainting", "sv3d"],
            inputs=_inputs(),
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="Mesh with the completed texture."),
                io.Image.Output(display_name="texture", tooltip="Base colour texture, sRGB."),
                io.Mask.Output(
                    display_name="coverage",
                    tooltip="How much of each texel comes from the model: 0 where views saw it.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="Images of the last orbit, the input view first.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Unseen and generated fractions, cost, warnings."
                ),
            ],
        )

    @classmethod
    @with_warnings
    def execute(
        cls, mesh, views, model, method, orbits, steps, start_noise, iterations, seed,
        image=None, mask=None, size=0,
    ) -> io.NodeOutput:  # fmt: skip
        from .adapters import image_from_tensor, mask_from_tensor, single_mesh_from_socket
        from .mesh_adapters import batch_from_meshes

        config = CompletionConfig(
            method, orbits, steps, start_noise, iterations, seed, size_px=size or None
        )
        with node_context(memory_hint=SAMPLING_MEMORY_HINT) as context:
            core_mesh = single_mesh_from_socket(mesh)
            result = _complete(
                core_mesh, views.bundle, model.bundle, image, mask, config, context.progress
            )
            return io.NodeOutput(
                batch_from_meshes([result.mesh]),
                image_from_tensor(result.mesh.texture[None]),
                mask_from_tensor(result.coverage[None]),
                image_from_tensor(result.preview),
                "\n".join(result.report.lines()),
            )


def _complete(
    mesh: Mesh,
    views: Views,
    managed: ManagedModel,
    image: Tensor | None,
    mask: Tensor | None,
    config: CompletionConfig,
    progress: Any,
) -> CompletionResult:
    """Completes the texture with a model under ComfyUI's management."""
    from ..nova3d_core.completion.complete import complete_texture
    from ..nova3d_core.errors import InputError
    from .adapters import single_image
    from .model_management import HostModelPlacement

    if image is not None:
        image, mask = single_image(image, mask)
    elif mask is not None:
        raise InputError(
            "mask is connected, but image is not.", "Connect the image that the mask belongs to."
        )
    placement = HostModelPlacement(managed)
    return complete_texture(mesh, views, managed.model, image, mask, config, placement, progress)


NODES = [CompleteTexture]
