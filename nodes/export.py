"""Node that exports meshes to files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from .compat import CATEGORY, advanced, has_file3d, mesh_or_file, schema
from .folders import OutputPath, check_prefix, new_output_path, validation_result, write_new_output
from .runtime import NodeContext, node_context, with_warnings
from .sockets import SURFACE, VIEWS

if TYPE_CHECKING:
    from ..nova3d_core.mesh import Mesh

FORMATS = ("glb", "obj", "ply")


def _export_inputs() -> list[io.Input]:
    return [
        mesh_or_file(
            "mesh",
            optional=True,
            tooltip="Mesh, or a batch of meshes, each written to its own file.",
        ),
        SURFACE.Input(
            "surface",
            optional=True,
            tooltip="Instead of a mesh: surface from Fuse Views into a Surface.",
        ),
        VIEWS.Input(
            "views",
            optional=True,
            tooltip="With a surface: the views that its texture is baked from.",
        ),
        io.Combo.Input(
            "format",
            options=list(FORMATS),
            default="glb",
            tooltip=(
                "glb: a single file with texture, PBR and normal maps; obj: texture only, with "
                "separate .mtl and .png files; ply: vertex colours, no texture."
            ),
        ),
        io.String.Input(
            "filename_prefix",
            default="nova3d/mesh",
            tooltip="Path prefix inside ComfyUI's output folder; a number is appended.",
        ),
        advanced(io.Int.Input(
            "target_faces", default=40_000, min=100, max=5_000_000, step=100,
            tooltip="With a surface: approximate maximum number of triangles.",
        )),
        advanced(io.Int.Input(
            "texture_size", default=1024, min=64, max=8192, step=64,
            tooltip="With a surface: texture width and height in pixels.",
        )),
    ]  # fmt: skip


class ExportMesh(io.ComfyNode):
    """Exports a mesh to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [
            io.String.Output(
                display_name="path",
                tooltip="Path of the (first) file, relative to the output folder, for Preview 3D.",
            )
        ]
        if has_file3d():
            outputs.append(
                io.File3DGLB.Output(
                    display_name="model_3d",
                    tooltip=(
                        "The (first) mesh as GLB, for previews; independent of the file format."
                    ),
                )
            )
        return schema(
            node_id="ExportMesh",
            display_name="Export Mesh (NOVA3D)",
            category=f"{CATEGORY}/mesh",
            description=(
                "Exports a mesh with its texture to ComfyUI's output folder. Connect a mesh, or a "
                "surface with its views to extract and texture the mesh in the same step. A GLB "
                "file contains the workflow, like saved images. Nothing is overwritten."
            ),
            search_aliases=["save glb", "save mesh", "save 3d model", "obj", "ply"],
            is_output_node=True,
            inputs=_export_inputs(),
            outputs=outputs,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        return validation_result(check_prefix, filename_prefix)

    @classmethod
    @with_warnings
    def execute(
        cls, format, filename_prefix, target_faces, texture_size,
        mesh=None, surface=None, views=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..nova3d_core.io.mesh.write import check_can_write_mesh
        from .adapters import file3d_from_glb

        with node_context() as context:
            # before long work: a linked prefix was not validated yet
            output = new_output_path(filename_prefix)
            check_can_write_mesh(output.path(f".{format}"), overwrite=False)
            meshes = _meshes_to_export(context, mesh, surface, views, target_faces, texture_size)
            metadata = _workflow_metadata(cls.hidden)
            written = [_write_mesh(each, format, filename_prefix, metadata) for each in meshes]
            outputs = [written[0][0].relative(f".{format}")]
            if has_file3d():
                outputs.append(file3d_from_glb(written[0][1]))
            entries = [output.ui_entry(f".{format}") for output, _ in written]
            return io.NodeOutput(*outputs, ui={"3d": entries})


def _meshes_to_export(
    context: NodeContext, mesh: Any, surface: Any, views: Any, target_faces: int, texture_size: int
) -> list[Mesh]:
    """The connected meshes, or the textured mesh of the connected surface."""
    from ..nova3d_core.errors import InputError
    from ..nova3d_core.meshing.config import MeshingConfig
    from ..nova3d_core.pipeline.config import FuseConfig
    from ..nova3d_core.pipeline.stages import texture_surface
    from ..nova3d_core.texturing.config import BakeConfig
    from .adapters import meshes_from_socket

    if mesh is not None:
        if surface is not None:
            raise InputError("both a mesh and a surface are connected.", "Disconnect one of them.")
        return meshes_from_socket(mesh)
    if surface is None or views is None:
        raise InputError(
            "there is nothing to export.", "Connect a mesh, or a surface together with its views."
        )
    config = FuseConfig(meshing=MeshingConfig(target_faces), bake=BakeConfig(texture_size))
    return [texture_surface(surface.bundle, views.bundle, config, context.progress)]


def _write_mesh(
    mesh: Mesh, file_format: str, prefix: str, metadata: dict[str, str]
) -> tuple[OutputPath, bytes]:
    """Writes a mesh under a new name; returns its path and the mesh as GLB bytes."""
    from ..nova3d_core.io.files.atomic import atomic_file
    from ..nova3d_core.io.mesh.write import mesh_to_glb_bytes, write_mesh

    glb = mesh_to_glb_bytes(mesh, metadata)

    def write(output: OutputPath) -> None:
        path = output.path(f".{file_format}")
        if file_format == "glb":
            with atomic_file(path) as temporary:
                temporary.write_bytes(glb)
        else:
            write_mesh(mesh, path)

    return write_new_output(prefix, write), glb


def _workflow_metadata(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as ComfyUI embeds them; empty with --disable-metadata."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    metadata = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    for name, value in (hidden.extra_pnginfo or {}).items():
        metadata[name] = json.dumps(value)
    return metadata


NODES = [ExportMesh]
