"""Node that removes the light of the scene from views."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.texturing.config import UnlightConfig
from .compat import CATEGORY, advanced, mesh_or_file, schema
from .runtime import REPORT, node_context, with_warnings
from .sockets import VIEWS


class RemoveLight(io.ComfyNode):
    """Divides views by the shading of a light that is fitted to them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RemoveLight",
            display_name="Remove Light from Views (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Estimates the light of the scene from the views and a mesh of the object, and "
                "divides the views by its shading, so that a texture baked from them has no "
                "shading and can be lit anew. For a light that stands still while the camera "
                "moves, as in SV3D's views. Views without shading stay as they are. Does not "
                "remove cast shadows, gloss or coloured light. Runs on the CPU."
            ),
            search_aliases=["delight", "unlight", "albedo", "relighting", "intrinsic", "shading"],
            inputs=[
                mesh_or_file(
                    "mesh",
                    tooltip="Mesh in the world frame of the views, from Extract Mesh.",
                ),
                VIEWS.Input(
                    "views", tooltip="Refined views from Fuse Views into a Surface."
                ),
                io.Float.Input(
                    "strength", default=UnlightConfig().strength, min=0.0, max=1.0, step=0.05,
                    tooltip=(
                        "Fraction of the shading to remove. 0: only show the shading; reduce it "
                        "if the result looks flat or too bright in the dark."
                    ),
                ),
                advanced(io.Float.Input(
                    "gate", default=UnlightConfig().gate, min=0.0, max=1.0, step=0.01,
                    tooltip=(
                        "Views whose shading varies by less than this (standard deviation over "
                        "mean) count as unlit and stay as they are. 0: always remove the light."
                    ),
                )),
            ],
            outputs=[
                VIEWS.Output(
                    display_name="views", tooltip="The views without light, for Bake Texture."
                ),
                io.Image.Output(
                    display_name="shading", tooltip="Estimated shading of each view."
                ),
                io.Image.Output(
                    display_name="light",
                    tooltip=(
                        "Estimated light as an equirectangular image: the centre is the direction "
                        "of the front camera, seen from the object."
                    ),
                ),
                io.String.Output(
                    display_name=REPORT, tooltip="What was removed, and the light in numbers."
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, mesh, views, strength, gate) -> io.NodeOutput:
        from ..nova3d_core.compute.cancellable import run_cancellable
        from ..nova3d_core.texturing.lighting.images import light_image, shading_images
        from ..nova3d_core.texturing.lighting.unlight import unlight
        from .adapters import image_from_tensor, single_mesh_from_socket
        from .socket_bundle import SocketBundle

        with node_context() as context:
            config = UnlightConfig(strength=strength, gate=gate)
            core_mesh = single_mesh_from_socket(mesh)
            unlit = run_cancellable(
                lambda progress: unlight(views.bundle, core_mesh, config, progress),
                context.progress,
                "removing light",
            )
            return io.NodeOutput(
                SocketBundle(unlit.views),
                image_from_tensor(shading_images(unlit)),
                image_from_tensor(light_image(unlit.light)),
                unlit.report.to_text(),
            )


NODES = [RemoveLight]
