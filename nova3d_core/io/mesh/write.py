"""Writes meshes as GLB, OBJ and PLY, through trimesh's exporters."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, StageError
from ...mesh import ZERO_ORIGIN, Mesh
from ..files.atomic import new_file, new_files, refuse_file, refuse_link, refuse_unusable_name
from ..files.ownership import GENERATOR, refuse_foreign_file
from ..images.decode import open_image
from ..images.srgb import linear_from_srgb

if TYPE_CHECKING:
    import trimesh
    from PIL.Image import Image

WRITABLE = (".glb", ".obj", ".ply")
"""Endings that `write_mesh` knows."""

_LINEAR, _MIPMAPS, _CLAMP, _REPEAT = 9729, 9987, 33071, 10497
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963


def write_mesh(mesh: Mesh, path: Path | str, overwrite: bool = False) -> Path:
    """Writes a mesh; the name's ending says in which format.

    Args:
        mesh: .glb and .obj carry its texture; .ply has vertex colours alone, taken from the
            texture where there is one.
        path: a .glb, .obj or .ply file; an OBJ gets its .mtl and .png, of the same name, beside it.
        overwrite: replace files that an earlier run wrote; others never are.

    Returns:
        The path.

    Raises:
        InputError: the ending is not known, a file exists, or the place cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".glb":
        return write_glb(mesh, path, overwrite)
    if suffix == ".obj":
        return _write_obj(mesh, path, overwrite)
    if suffix == ".ply":
        with new_file(path, overwrite) as part:
            part.write_bytes(_ply_bytes(mesh))
            refuse_foreign_file(path.resolve())
        return path
    raise _not_writable(path)


def mesh_files(path: Path) -> tuple[Path, ...]:
    """The files that `write_mesh` writes for a path: of an OBJ its MTL and image too."""
    if path.suffix.lower() != ".obj":
        return (path,)
    target = path.resolve()
    return (path, target.with_suffix(".mtl"), target.with_suffix(".png"))


def refuse_mesh_path(path: Path, overwrite: bool, inputs: Collection[Path | None] = ()) -> None:
    """Raises InputError unless `write_mesh` may write there; asked before long work.

    Args:
        path: the mesh; of an OBJ, its .mtl and .png are checked too.
        overwrite: whether files of an earlier run may be replaced.
        inputs: files and folders that are read meanwhile, and never replaced.
    """
    if path.suffix.lower() not in WRITABLE:
        raise _not_writable(path)
    refuse_file(path, overwrite, inputs)
    if path.suffix.lower() == ".obj":
        _refuse_obj_name(path)
        for other in mesh_files(path)[1:]:
            refuse_link(other)
            refuse_file(other, overwrite, inputs)


def _refuse_obj_name(path: Path) -> None:
    """Raises InputError if an OBJ of this name cannot refer to its MTL, or that to its image.

    Both refer by a line of text, in which readers split lines, trim blanks, take a backslash or a
    colon as part of a path, and a leading hyphen as an option.
    """
    name = path.resolve().stem
    printable = all(letter.isprintable() or letter == "\xa0" for letter in name)
    if not printable or name != name.strip() or name.startswith("-") or set(name) & set("\\:"):
        raise InputError(
            f"{path} cannot be written: an OBJ cannot refer to files of this name.",
            "Choose a name of letters and digits, or write a .glb.",
        )


def _not_writable(path: Path) -> InputError:
    return InputError(f"a mesh cannot be written as {path}.", f"Known are {', '.join(WRITABLE)}.")


def write_glb(mesh: Mesh, path: Path | str, overwrite: bool = False) -> Path:
    """Writes a mesh as one GLB file (see `mesh_to_glb_bytes`) and returns its path.

    Raises:
        InputError: the name does not end in .glb, the file exists, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".glb":
        raise InputError(f"{path} is to be a GLB file.", "Give it a name that ends in .glb.")
    with new_file(path, overwrite) as part:
        part.write_bytes(mesh_to_glb_bytes(mesh))
        refuse_foreign_file(path.resolve())
    return path


def mesh_to_glb_bytes(mesh: Mesh, extras: Mapping[str, Any] | None = None) -> bytes:
    """A mesh as a GLB file: +Y up, one non-metallic material, smooth normals, all embedded.

    The texture goes in as PNG, base colour; without one, vertex colours go in as linear floats.
    A mesh without normals gets smooth ones.

    Args:
        mesh: on any device.
        extras: facts to keep in the file's `asset.extras`, in what JSON can hold.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    mesh = _with_proper_normals(mesh)
    texture = None if mesh.texture is None else _as_image(mesh.texture)
    material = PBRMaterial(
        name="nova3d", baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0
    )
    body = _as_trimesh(mesh, TextureVisuals(uv=_bottom_up(mesh.uv), material=material))
    coloured = mesh.texture is None and mesh.vertex_colours is not None
    if coloured:
        # trimesh rounds COLOR_0 to 8 bits, too coarse for dark linear colours, but leaves custom
        # attributes alone: the name is put right below
        linear = linear_from_srgb(mesh.vertex_colours.numpy())
        body.vertex_attributes["_COLOR_0"] = linear.astype(np.float32)
    tiled = _reaches_beyond_border(mesh)

    def finish(header: dict[str, Any]) -> None:
        header["asset"]["generator"] = GENERATOR
        if extras:
            header["asset"]["extras"] = dict(extras)
        if coloured:
            attributes = header["meshes"][0]["primitives"][0]["attributes"]
            attributes["COLOR_0"] = attributes.pop("_COLOR_0")
        primitive = header["meshes"][0]["primitives"][0]
        for number in primitive["attributes"].values():
            _view_of(header, number)["target"] = _ARRAY_BUFFER
        _view_of(header, primitive["indices"])["target"] = _ELEMENT_ARRAY_BUFFER
        wrap = _REPEAT if tiled else _CLAMP
        for described in header.get("textures", []):
            described["sampler"] = 0
            header["samplers"] = [
                {"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": wrap, "wrapT": wrap}
            ]

        if mesh.origin != ZERO_ORIGIN:
            node = next(node for node in header["nodes"] if "mesh" in node)
            node.pop("matrix", None)
            node["translation"] = list(mesh.origin)

    scene = trimesh.Scene({"mesh": body})
    return export_glb(scene, include_normals=True, unitize_normals=False, tree_postprocessor=finish)


def _reaches_beyond_border(mesh: Mesh) -> bool:
    """Whether lookups blend texels across the texture's border, where ours repeat it."""
    if mesh.texture is None:
        return False
    height, width = mesh.texture.shape[:2]
    half = 0.5 / mesh.uv.new_tensor([width, height])
    return bool(((mesh.uv < half) | (mesh.uv > 1.0 - half)).any())


def _view_of(header: dict[str, Any], accessor: int) -> dict[str, Any]:
    """The buffer view that holds an accessor's numbers."""
    return header["bufferViews"][header["accessors"][accessor]["bufferView"]]


def _write_obj(mesh: Mesh, path: Path, overwrite: bool) -> Path:
    """Writes an OBJ, its MTL and its image: all of them or none; the OBJ appears last."""
    from trimesh.exchange.obj import export_obj
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import SimpleMaterial

    refuse_unusable_name(path)
    if mesh.normals is not None:
        mesh = _with_proper_normals(mesh)
    target = path.resolve()
    visual = None
    if mesh.texture is not None:
        _refuse_obj_name(path)
        white, black = [255, 255, 255, 255], [0, 0, 0, 255]
        material = SimpleMaterial(
            _as_image(mesh.texture), diffuse=white, ambient=black, specular=black
        )
        material.name = target.stem
        visual = TextureVisuals(uv=_bottom_up(mesh.uv), material=material)
    text, others = export_obj(
        _as_trimesh(mesh, visual, _world_vertices(mesh)),
        include_normals=mesh.normals is not None,
        return_texture=True,
        mtl_name=target.with_suffix(".mtl").name,
        header=GENERATOR,
        digits=9,
    )
    # trimesh drops whatever fails to convert, a Ctrl-C included, and goes on
    complete = mesh.normals is None or "\nvn " in text
    if mesh.texture is not None:
        complete = complete and "\nvt " in text and len(others) == 2
    if not complete:
        raise StageError("writing", f"{path} would have lacked normals or texture: not written.")
    contents = {name: _marked(name, content) for name, content in others.items()}
    contents[target.name] = text.encode()
    with new_files(target.parent, tuple(contents), overwrite, shown=path) as parts:
        for name, part in zip(contents, parts, strict=True):
            part.write_bytes(contents[name])
            refuse_foreign_file(target.with_name(name))
    return path


def _marked(name: str, content: bytes) -> bytes:
    """A PNG image that names its generator; an MTL file does so already."""
    if name.endswith(".mtl"):
        return content
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("Software", GENERATOR)
    marked = io.BytesIO()
    with open_image(content, name, ("PNG",)) as image:
        image.save(marked, "PNG", pnginfo=about)
    return marked.getvalue()


def _ply_bytes(mesh: Mesh) -> bytes:
    from trimesh.exchange.ply import export_ply

    if mesh.texture is not None:
        from ...imaging.sampling import sample_texture

        mesh = replace(mesh, vertex_colours=sample_texture(mesh.texture, mesh.uv))
    if mesh.normals is not None:
        mesh = _with_proper_normals(mesh)
    content = export_ply(
        _as_trimesh(mesh), vertex_normal=mesh.normals is not None, include_attributes=False
    )
    content = content.replace(b"\ncomment ", f"\ncomment {GENERATOR}\ncomment ".encode(), 1)
    return content if mesh.origin == ZERO_ORIGIN else _with_double_positions(content, mesh)


def _with_double_positions(content: bytes, mesh: Mesh) -> bytes:
    """A binary PLY of ours with x, y, z as float64 in the world: trimesh writes float32 alone."""
    head, end, body = content.partition(b"end_header\n")
    before, element, properties = head.partition(b"element vertex")
    properties, faces, rest = properties.partition(b"element face")
    count = len(mesh.vertices)
    stride = (len(body) - 13 * len(mesh.faces)) // count  # a face: a count and three int32
    rows = np.frombuffer(body, np.uint8, count * stride).reshape(count, stride)
    positions = np.frombuffer(_world_vertices(mesh).astype("<f8").tobytes(), np.uint8)
    rows = np.concatenate([positions.reshape(count, 24), rows[:, 12:]], axis=1)
    for axis in (b"x", b"y", b"z"):
        properties = properties.replace(
            b"property float %s\n" % axis, b"property double %s\n" % axis
        )
    return b"".join(
        [before, element, properties, faces, rest, end, rows.tobytes(), body[count * stride :]]
    )


def _world_vertices(mesh: Mesh) -> np.ndarray:
    """(N, 3) float64 vertices in the world."""
    return mesh.vertices.cpu().double().numpy() + np.array(mesh.origin)


def _as_trimesh(
    mesh: Mesh, visual: Any = None, vertices: np.ndarray | None = None
) -> trimesh.Trimesh:
    """The mesh as trimesh's exporters want it, with vertex colours unless a visual is given.

    Args:
        mesh: on any device.
        visual: trimesh's own texture.
        vertices: (N, 3) float64; without them those of the mesh, relative to its origin.
    """
    import trimesh

    colours = None
    if visual is None and mesh.vertex_colours is not None:
        colours = _levels(mesh.vertex_colours)
    return trimesh.Trimesh(
        vertices=mesh.vertices.cpu().double().numpy() if vertices is None else vertices,
        faces=mesh.faces.cpu().numpy(),
        vertex_normals=None if mesh.normals is None else mesh.normals.cpu().numpy(),
        vertex_colors=colours,
        visual=visual,
        process=False,
    )


def _with_proper_normals(mesh: Mesh) -> Mesh:
    """The mesh on the CPU with unit normals, as glTF demands, also where no face gives one."""
    mesh = mesh.to("cpu")
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    length = mesh.normals.norm(dim=1, keepdim=True)
    upward = mesh.normals.new_tensor([0.0, 1.0, 0.0])
    return replace(mesh, normals=torch.where(length > 1e-6, mesh.normals / length, upward))


def _bottom_up(uv: Tensor | None) -> np.ndarray | None:
    """(N, 2) coordinates with the origin bottom left, as trimesh and OBJ count them."""
    if uv is None:
        return None
    flipped = uv.cpu().double().numpy()
    flipped[:, 1] = 1.0 - flipped[:, 1]
    return flipped


def _as_image(texture: Tensor) -> Image:
    from PIL import Image

    return Image.fromarray(_levels(texture))


def _levels(colours: Tensor) -> np.ndarray:
    """Colours in 0..1 as 8-bit levels."""
    return (colours.detach().cpu().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
