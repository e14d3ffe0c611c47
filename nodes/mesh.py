"""Nodes that extract a mesh from a surface and load a mesh from a file."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..nova3d_core.conventions import UP_AXES
from .compat import CATEGORY, advanced, schema
from .folders import file_fingerprint, list_mesh_files, mesh_path, validation_result
from .runtime import host_errors, node_context, with_warnings
from .sockets import SURFACE


class ExtractMesh(io.ComfyNode):
    """Extracts a mesh from a surface."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ExtractMesh",
            display_name="Extract Mesh from a Surface (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Converts a fused surface to a mesh: marching cubes, removal of small components, "
                "simplification. The mesh is watertight and manifold, with smooth normals."
            ),
            search_aliases=["marching cubes", "surface to mesh", "isosurface"],
            inputs=[
                SURFACE.Input("surface", tooltip="Surface from Fuse Views into a Surface."),
                io.Int.Input(
                    "target_faces",
                    default=40_000,
                    min=100,
                    max=5_000_000,
                    step=100,
                    tooltip=(
                        "Approximate maximum number of triangles; 40000 preserves the detail of 16 "
                        "views of 256 px."
                    ),
                ),
                advanced(io.Int.Input(
                    "resolution", default=0, min=0, max=1024,
                    tooltip=(
                        "Grid cells along the longest side, 16 or more; 0: the resolution of the "
                        "fusion. Lower values smooth the surface; higher values add no detail."
                    ),
                )),
                advanced(io.Float.Input(
                    "min_component_area_ratio", default=0.005, min=0.0, max=0.99, step=0.001,
                    tooltip=(
                        "Connected components below this fraction of the surface area are removed."
                    ),
                )),
            ],
            outputs=[
                io.Mesh.Output(
                    display_name="mesh",
                    tooltip="Watertight mesh with smooth normals, without texture.",
                )
            ],
        )  # fmt: skip

    @classmethod
    @with_warnings
    def execute(cls, surface, target_faces, resolution, min_component_area_ratio) -> io.NodeOutput:
        from ..nova3d_core.meshing.config import MeshingConfig
        from ..nova3d_core.pipeline.stages import extract_mesh
        from .mesh_adapters import batch_from_meshes

        with node_context() as context:
            config = MeshingConfig(target_faces, min_component_area_ratio)
            mesh = extract_mesh(surface.bundle, config, resolution, context.progress)
            return io.NodeOutput(batch_from_meshes([mesh]))


class LoadMesh(io.ComfyNode):
    """Loads a mesh from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NOVA3DLoadMesh",
            display_name="Load Mesh (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Loads a mesh with its texture or vertex colours: GLB, glTF, OBJ, PLY, STL, OFF. "
                "glTF files keep their PBR and normal maps. Put the file into ComfyUI's input "
                "folder, or try the example."
            ),
            search_aliases=["load glb", "load obj", "import mesh", "load 3d model"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_mesh_files(),
                    tooltip=(
                        "Mesh file in ComfyUI's input folder, together with the files it refers "
                        "to; or a shipped example."
                    ),
                ),
                io.Combo.Input(
                    "up_axis",
                    options=list(UP_AXES),
                    default="+Y",
                    tooltip="Up axis of the file: +Y for glTF, often +Z for scans and CAD.",
                ),
            ],
            outputs=[
                io.Mesh.Output(
                    display_name="mesh", tooltip="The mesh in the file's units, rotated to +Y up."
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
