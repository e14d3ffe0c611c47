"""Node that evaluates a mesh, or Gaussian splats by their images, against a reference mesh."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.evaluation.config import ALIGNMENTS, PROTOCOLS
from .compat import CATEGORY, advanced, mesh_or_file, mesh_splats_or_file, schema
from .runtime import node_context, with_warnings


class EvaluateMesh(io.ComfyNode):
    """Computes metrics of a mesh or of splats against a reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="EvaluateMesh",
            display_name="Evaluate Mesh against a Reference (NOVA3D)",
            category=f"{CATEGORY}/evaluate",
            description=(
                "Computes metrics of a mesh against a reference mesh: Chamfer distance, F-score, "
                "normal consistency, volume IoU, and image metrics of renders from 32 camera "
                "poses, with LPIPS where a file of its backbone is in models/nova3d. The reference "
                "is centred and scaled to a longest side of 1, the unit of all lengths."
            ),
            search_aliases=["chamfer distance", "mesh metrics", "compare meshes", "psnr", "iou"],
            is_output_node=True,
            inputs=[
                mesh_splats_or_file(
                    "mesh",
                    tooltip=(
                        "Reconstructed mesh, or Gaussian splats: these have no surface and are "
                        "compared by their images alone."
                    ),
                ),
                mesh_or_file("reference", tooltip="Mesh of the true shape."),
                io.Combo.Input(
                    "align",
                    options=list(ALIGNMENTS),
                    default="none",
                    tooltip=(
                        "Alignment with the reference. none: for a mesh made from views of the "
                        "normalised reference; bbox: centre and scale by bounding box; icp: also "
                        "rotate, by iterative closest point."
                    ),
                ),
                io.Combo.Input(
                    "protocol",
                    options=list(PROTOCOLS),
                    default="strict",
                    tooltip=(
                        "strict: this pack's protocol, all metrics; syncdreamer: the protocol used "
                        "in published tables."
                    ),
                ),
                advanced(io.Int.Input(
                    "points", default=100_000, min=100, max=10_000_000, step=100,
                    tooltip="strict: number of points sampled on each surface.",
                )),
                advanced(io.Int.Input(
                    "image_size", default=256, min=32, max=2048, step=32,
                    tooltip="Width and height of the rendered images in pixels.",
                )),
                advanced(io.Int.Input(
                    "seed", default=0, min=0, max=2**31 - 1,
                    tooltip=(
                        "Random seed of the point sampling; the same seed reproduces the metrics."
                    ),
                )),
            ],
            outputs=[
                io.String.Output(display_name="report_json", tooltip="All metrics as JSON."),
                io.String.Output(display_name="report", tooltip="Main metrics, one per line."),
                io.Image.Output(
                    display_name="comparison",
                    tooltip="Grid of reference, result, difference and normals.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, mesh, reference, align, protocol, points, image_size, seed) -> io.NodeOutput:
        from ..nova3d_core.compute.cancellable import run_cancellable
        from ..nova3d_core.evaluation.config import EvaluateConfig
        from ..nova3d_core.evaluation.protocol import evaluate_mesh_with_grid
        from ..nova3d_core.evaluation.report import format_metrics
        from ..nova3d_core.perceptual.backbones import no_backbone_error
        from ..nova3d_core.perceptual.lpips import load_all_lpips
        from ..nova3d_core.splats import Splats
        from ..nova3d_core.splatting.evaluate import evaluate_splats
        from .adapters import image_from_tensor, single_mesh_from_socket
        from .model_files import own_model_folders
        from .splat_adapters import mesh_or_splats_from_socket

        with node_context() as context:
            config = EvaluateConfig(
                protocol, points=points, seed=seed, align=align, image_px=image_size
            )
            result = mesh_or_splats_from_socket(mesh)
            truth = single_mesh_from_socket(reference, "reference")
            evaluate = evaluate_splats if isinstance(result, Splats) else evaluate_mesh_with_grid
            folders = own_model_folders()
            nets = [net.to(context.device) for net in load_all_lpips(folders)]
            report, grid = run_cancellable(
                lambda progress: evaluate(result, truth, config, progress, nets),
                context.progress,
                "measuring",
            )
            table = format_metrics(report)
            if not nets:
                table += f"No LPIPS: {no_backbone_error(folders=folders)}\n"
            return io.NodeOutput(
                report.to_json(), table, image_from_tensor(grid[None]), ui={"text": [table]}
            )


NODES = [EvaluateMesh]
