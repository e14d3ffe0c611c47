"""Writes Wavefront OBJ with its MTL and texture, through trimesh's exporter."""

from __future__ import annotations

import io
from pathlib import Path

from ....errors import InputError, StageError
from ....mesh import Mesh
from ...files.atomic import atomic_files, check_usable_path
from ...files.ownership import GENERATOR, reject_foreign_file
from ...images.decode import open_image
from ..trimesh_export import (
    flip_v_to_bottom,
    to_pil_image,
    to_trimesh,
    with_unit_normals,
    world_vertices,
)


def write_obj(mesh: Mesh, path: Path, overwrite: bool = False) -> Path:
    """Writes an OBJ with its MTL and image: all files or none; the OBJ appears last."""
    from trimesh.exchange.obj import export_obj
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import SimpleMaterial

    check_usable_path(path)
    if mesh.normals is not None:
        mesh = with_unit_normals(mesh)
    target = path.resolve()
    visual = None
    if mesh.texture is not None:
        check_obj_name(path)
        white, black = [255, 255, 255, 255], [0, 0, 0, 255]
        material = SimpleMaterial(
            to_pil_image(mesh.texture), diffuse=white, ambient=black, specular=black
        )
        material.name = target.stem
        visual = TextureVisuals(uv=flip_v_to_bottom(mesh.uv), material=material)
    text, others = export_obj(
        to_trimesh(mesh, visual, world_vertices(mesh)),
        include_normals=mesh.normals is not None,
        return_texture=True,
        mtl_name=target.with_suffix(".mtl").name,
        header=GENERATOR,
        digits=9,
    )
    # trimesh silently drops what fails to convert, even on Ctrl-C
    complete = mesh.normals is None or "\nvn " in text
    if mesh.texture is not None:
        complete = complete and "\nvt " in text and len(others) == 2
    if not complete:
        raise StageError(
            "writing", f"{path} was not written: its normals or texture could not be exported."
        )
    contents = {name: _with_generator_tag(name, content) for name, content in others.items()}
    contents[target.name] = text.encode()
    with atomic_files(target.parent, tuple(contents), overwrite, label=path) as temporaries:
        for name, temporary in zip(contents, temporaries, strict=True):
            temporary.write_bytes(contents[name])
            reject_foreign_file(target.with_name(name))
    return path


def check_obj_name(path: Path) -> None:
    """Raises InputError if an OBJ of this name cannot refer to its MTL, or the MTL to its image.

    Both refer to files by a line of text: readers trim blanks, treat a backslash or a colon as part
    of a path, and a leading hyphen as an option.
    """
    name = path.resolve().stem
    printable = all(char.isprintable() or char == "\xa0" for char in name)
    if not printable or name != name.strip() or name.startswith("-") or set(name) & set("\\:"):
        raise InputError(
            f"{path} cannot be written: an OBJ cannot refer to files of this name.",
            "Choose a name of letters and digits, or write a .glb.",
        )


def _with_generator_tag(name: str, content: bytes) -> bytes:
    """Adds the generator to a PNG's metadata; an MTL file has it already."""
    if name.endswith(".mtl"):
        return content
    from PIL.PngImagePlugin import PngInfo

    metadata = PngInfo()
    metadata.add_text("Software", GENERATOR)
    tagged = io.BytesIO()
    with open_image(content, name, ("PNG",)) as image:
        image.save(tagged, "PNG", pnginfo=metadata)
    return tagged.getvalue()
