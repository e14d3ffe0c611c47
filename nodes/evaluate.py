"""How good a mesh is."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.evaluation.config import ALIGNMENTS, PROTOCOLS
from .compat import CATEGORY, advanced, mesh_or_file, schema
from .runtime import with_warnings, node_context


class EvaluateMesh(io.ComfyNode):
    """A mesh against a reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="EvaluateMesh",
            display_name="Evaluate Mesh against a Reference (NOVA3D)",
            category=f"{CATEGORY}/evaluate",
            description=(
                "Measures how close a mesh is to its reference: distances, F-scores, normals, "
                "volume overlap, and images rendered from 32 poses. The reference is centred and "
                "its longest side made 1; all lengths are in that unit. Runs on the CPU."
            ),
            search_aliases=["chamfer distance", "mesh metrics", "compare meshes", "psnr", "iou"],
            is_output_node=True,
            inputs=[
                mesh_or_file("mesh", tooltip="The result."),
                mesh_or_file("reference", tooltip="The truth."),
                io.Combo.Input(
                    "align",
                    options=list(ALIGNMENTS),
                    default="none",
                    tooltip=(
                        "none: the mesh as it lies, made from views of the normalised reference; "
                        "bbox: centred and scaled; icp: also turned onto the reference."
                    ),
                ),
                io.Combo.Input(
                    "protocol",
                    options=list(PROTOCOLS),
                    default="strict",
                    tooltip="strict: ours, all figures; syncdreamer: as in the papers' tables.",
                ),
                advanced(io.Int.Input(
                    "points", default=100_000, min=100, max=10_000_000, step=100,
                    tooltip="strict: random points on each surface.",
                )),
                advanced(io.Int.Input(
                    "image_size", default=256, min=32, max=2048, step=32,
                    tooltip="Width and height of the compared images.",
                )),
                advanced(io.Int.Input(
                    "seed", default=0, min=0, max=2**31 - 1,
                    tooltip="Start of the random points; the same seed gives the same figures.",
                )),
            ],
            outputs=[
                io.String.Output(display_name="report_json", tooltip="All figures as JSON."),
                io.String.Output(display_name="report", tooltip="The main figures, one a line."),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="Truth, result, difference and normals side by side.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, mesh, reference, align, protocol, points, image_size, seed) -> io.NodeOutput:
        from ..nova3d_core.evaluation.config import EvaluateConfig
        from ..nova3d_core.evaluation.protocol import evaluate_mesh_with_grid
        from ..nova3d_core.evaluation.report import format_metrics
        from .adapters import image_from_tensor, single_mesh_from_socket

        with node_context() as work:
            config = EvaluateConfig(
                protocol, points=points, seed=seed, align=align, image_px=image_size
            )
            meshes = single_mesh_from_socket(mesh), single_mesh_from_socket(reference, "reference")
            report, sheet = evaluate_mesh_with_grid(*meshes, config, work.progress)
            table = format_metrics(report)
            return io.NodeOutput(
                report.to_json(), table, image_from_tensor(sheet[None]), ui={"text": [table]}
            )


NODES = [EvaluateMesh]
