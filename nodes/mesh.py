"""Meshes: from a surface, from a file."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.conventions import UP_AXES
from .compat import CATEGORY, advanced, schema
from .folders import list_mesh_files, mesh_path, validation_result, file_fingerprint
from .runtime import host_errors, with_warnings, node_context
from .sockets import SURFACE


class ExtractMesh(io.ComfyNode):
    """A mesh of a surface."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ExtractMesh",
            display_name="Extract Mesh from a Surface (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Turns a fused surface into a mesh: marching cubes, crumbs dropped, simplified, "
                "closed and manifold, with smooth normals."
            ),
            search_aliases=["marching cubes", "surface to mesh", "isosurface"],
            inputs=[
                SURFACE.Input("surface", tooltip="From Fuse Views."),
                io.Int.Input(
                    "target_faces",
                    default=40_000,
                    min=100,
                    max=5_000_000,
                    step=100,
                    tooltip="At most about so many triangles; 40000 keeps what 16 views can show.",
                ),
                advanced(io.Int.Input(
                    "resolution", default=0, min=0, max=1024,
                    tooltip=(
                        "Cells along the longest side; 0 takes the fusion's own. Less is "
                        "smoother, more adds no detail. 16 or more."
                    ),
                )),
                advanced(io.Float.Input(
                    "min_component_area_ratio", default=0.005, min=0.0, max=0.99, step=0.001,
                    tooltip="Loose parts with less than this share of the area are dropped.",
                )),
            ],
            outputs=[
                io.Mesh.Output(
                    display_name="mesh", tooltip="Closed, with smooth normals, without texture."
                )
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, surface, target_faces, resolution, min_component_area_ratio) -> io.NodeOutput:
        from ..nova3d_core.meshing.config import MeshingConfig
        from ..nova3d_core.pipeline.stages import extract_mesh
        from .mesh_adapters import batch_from_meshes

        with node_context() as work:
            config = MeshingConfig(target_faces, min_component_area_ratio)
            mesh = extract_mesh(surface.bundle, config, resolution, work.progress)
            return io.NodeOutput(batch_from_meshes([mesh]))


class LoadMesh(io.ComfyNode):
    """A mesh of a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NOVA3DLoadMesh",
            display_name="Load Mesh (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Reads a mesh file with its base colour texture or vertex colours: GLB, glTF, OBJ, "
                "PLY, STL, OFF. Put it into ComfyUI's input folder, or try the example."
            ),
            search_aliases=["load glb", "load obj", "import mesh", "load 3d model"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_mesh_files(),
                    tooltip=(
                        "A mesh file inside ComfyUI's input folder, with the files it names, or an "
                        "example that comes with the pack."
                    ),
                ),
                io.Combo.Input(
                    "up_axis",
                    options=list(UP_AXES),
                    default="+Y",
                    tooltip="Which way is up in the file: glTF says +Y, many scans and CAD +Z.",
                ),
            ],
            outputs=[
                io.Mesh.Output(
                    display_name="mesh", tooltip="As it lies in the file, turned to +Y up."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        return validation_result(mesh_path, file)

    @classmethod
    def fingerprint_inputs(cls, file: str, up_axis: str) -> str:
        with host_errors():
            return f"{file_fingerprint(mesh_path(file))} {up_axis}"

    @classmethod
    @with_warnings
    def execute(cls, file: str, up_axis: str) -> io.NodeOutput:
        from ..nova3d_core.io.mesh.read import read_mesh
        from .mesh_adapters import batch_from_meshes

        with node_context():
            return io.NodeOutput(batch_from_meshes([read_mesh(mesh_path(file), up_axis)]))


NODES = [ExtractMesh, LoadMesh]
