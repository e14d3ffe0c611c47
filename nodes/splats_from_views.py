"""Node that makes Gaussian splats of four views with a reconstruction model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from ..nova3d_core.reconstruction.config import FRAMINGS, ROTATIONS
from .compat import CATEGORY, advanced, has_splat_files, schema, splat_file_outputs, splats_output
from .folders import temporary_path
from .runtime import sampling_context, with_warnings
from .sockets import MODEL, VIEWS

if TYPE_CHECKING:
    from ..nova3d_core.reconstruction.reconstruct import Reconstruction
    from ..nova3d_core.views import Views
    from .model_management import ManagedModel


def _inputs() -> list[io.Input]:
    return [
        MODEL.Input(
            "model", tooltip="LGM, or Ouroboros3D's recon_model, from Load Multi-View Model."
        ),
        VIEWS.Input(
            "views",
            tooltip=(
                "At least four views around the object, with masks or on a white background. Those "
                "nearest to azimuths 0, 90, 180 and 270 from the first one are used."
            ),
        ),
        io.Combo.Input(
            "framing",
            options=list(FRAMINGS),
            default="object",
            tooltip=(
                "object: scale the views to the size of objects in the model's training; image: "
                "keep their perspective exactly, the object may become small or be cut off."
            ),
        ),
        advanced(
            io.Combo.Input(
                "rotations",
                options=list(ROTATIONS),
                default="auto",
                tooltip=(
                    "Rotations of the splats. auto: by the model file; normalised: for LGM's file "
                    "with fixrot in its name; identity: none, for LGM's older file and "
                    "Ouroboros3D, which were trained without."
                ),
            )
        ),
    ]


class SplatsFromViews(io.ComfyNode):
    """Makes splats of four views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [
            splats_output(),
            io.String.Output(
                display_name="report", tooltip="Number of splats, the views used, perspective."
            ),
            *splat_file_outputs("The splats as a .ply file, for Preview Splat and Save Splat."),
        ]
        return schema(
            node_id="SplatsFromViews",
            display_name="Splats from Views (NOVA3D)",
            category=f"{CATEGORY}/splats",
            description=(
                "Makes Gaussian splats of four views in one pass of LGM or of Ouroboros3D's "
                "reconstruction model, in about a second on a GPU. The splats have the position, "
                "size and orientation of the views' object. Fit Splats takes longer, but uses all "
                "views and needs no model."
            ),
            search_aliases=["gaussian splatting", "3dgs", "splat", "lgm", "ouroboros3d"],
            inputs=_inputs(),
            outputs=outputs,
        )

    @classmethod
    @with_warnings
    def execute(cls, model, views, framing, rotations) -> io.NodeOutput:
        from .splat_adapters import batch_from_splats, file3d_from_splats

        result = _reconstruct(model.bundle, views.bundle, framing, rotations)
        outputs = [batch_from_splats([result.splats]), result.report.to_text()]
        if has_splat_files():
            outputs.append(file3d_from_splats(result.splats, temporary_path("splats", ".ply")))
        return io.NodeOutput(*outputs)


def _reconstruct(
    managed: ManagedModel, views: Views, framing: str, rotations: str
) -> Reconstruction:
    """The splats of the views, cloned outside inference mode."""
    from ..nova3d_core.errors import InputError
    from ..nova3d_core.reconstruction.config import ReconstructConfig
    from ..nova3d_core.reconstruction.model import ReconstructionModel
    from ..nova3d_core.reconstruction.reconstruct import reconstruct_splats
    from .adapters import clone_outside_inference_mode
    from .model_management import HostModelPlacement

    with sampling_context() as progress:
        model = managed.model
        if not isinstance(model, ReconstructionModel):
            raise InputError(
                f"model is {model.family.label}, which generates views but no splats of them.",
                "Load LGM's model_fp16_fixrot.safetensors or Ouroboros3D's recon_model.pth, or use "
                "Fit Splats.",
            )
        config = ReconstructConfig(framing=framing, rotations=rotations)
        result = reconstruct_splats(model, views, config, HostModelPlacement(managed), progress)
        return clone_outside_inference_mode(result)


NODES = [SplatsFromViews]
